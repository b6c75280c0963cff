"""Series of a figure: the configurations that differ in their corruption level alone."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from .runs import LEADING_KEYS, SEEDS, Collection
from .tables import configurations, plain


@dataclass
class Series:
    """The configurations that differ in their corruption level alone.

    label: what tells the series from the others. rows: positions in the table of configurations,
    by rising level.
    """

    label: str
    rows: list[int]


def series(found: Collection) -> tuple[pd.DataFrame, pd.Series, list[Series]]:
    """The table of configurations, the position of each run's in it, and the series."""
    table, configuration = configurations(found)
    keys = _telling(table, [key for key in found.swept if key not in (*SEEDS, "corrupt")])
    listed = []
    # Where no key tells the rows apart, all have one data set.
    for values, rows in table.groupby(keys or ["dataset"], dropna=False, sort=True):
        label = ", ".join(_named(key, value) for key, value in zip(keys, values, strict=False))
        listed.append(Series(label or str(table["model"].iloc[0]), list(rows.index)))
    return table, configuration, listed


def _telling(table: pd.DataFrame, keys: list[str]) -> list[str]:
    """Those of `keys` that tell rows apart which the ones before do not; `model` comes first."""
    kept: list[str] = []
    groups = 1
    for key in sorted(keys, key=lambda key: (key != "model", keys.index(key))):
        number = table.groupby([*kept, key], dropna=False).ngroups
        if number > groups:
            kept, groups = [*kept, key], number
    return kept


def _named(key: str, value: object) -> str:
    """A value as a label: by itself where it says what it is, else with its key."""
    text = "null" if pd.isna(value) else plain(value)  # type: ignore[call-overload]
    return text if key in LEADING_KEYS else f"{key}={text}"
