"""Series of a figure: the configurations that differ in their corruption level alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from .runs import LEADING_KEYS, SEEDS, Collection, rank
from .tables import configurations, format_plain

MAX_DRAWN_SERIES = 6
"""In one figure; the tables hold all of them."""


@dataclass
class Series:
    """The configurations that differ in their corruption level alone.

    label: what tells the series from the others. rows: rows in the table of configurations, by
    rising level.
    """

    label: str
    rows: list[int]


def series(found: Collection) -> tuple[pd.DataFrame, pd.Series, list[Series]]:
    """Return the table of configurations, the row of each run in it, and the series."""
    table, configuration = configurations(found)
    keys = _telling(table, [key for key in found.swept if key not in (*SEEDS, "corrupt")])
    listed = []
    # If no key tells the rows apart, group by one that all share.
    ordered = table.sort_values(keys, key=rank, kind="stable") if keys else table
    for values, rows in ordered.groupby(keys or ["dataset"], dropna=False, sort=False):
        label = ", ".join(_label(key, value) for key, value in zip(keys, values, strict=False))
        listed.append(Series(label or str(table["model"].iloc[0]), list(rows.index)))
    return table, configuration, listed


def _telling(table: pd.DataFrame, keys: list[str]) -> list[str]:
    """Return the `keys` that tell rows apart which earlier keys do not; `model` comes first."""
    kept: list[str] = []
    groups = 1
    for key in sorted(keys, key=lambda key: (key != "model", keys.index(key))):
        number = table.groupby([*kept, key], dropna=False).ngroups
        if number > groups:
            kept, groups = [*kept, key], number
    return kept


def _label(key: str, value: Any) -> str:
    """Return a value as a label, with its key unless it says what it is."""
    text = "null" if pd.isna(value) else format_plain(value)
    return text if key in LEADING_KEYS else f"{key}={text}"
