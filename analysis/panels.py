"""The look of figures: one style, series, panels in rows, curves with bands, one legend."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .runs import LEADING_KEYS, SEEDS, Collection, rank
from .tables import configurations, format_plain

STYLE: Any = {
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "errorbar.capsize": 2,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "pdf.fonttype": 42,
}

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
"""Okabe & Ito 2008: distinct for colour-blind readers."""

MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
"""Markers distinguish lines that are printed in grey."""

MAX_DRAWN_SERIES = 6
"""Largest number of series in a figure; the tables hold all of them."""

LEGEND_CHARACTERS_PER_INCH = 11
"""Estimate for the font size of a legend, with its handles."""


def series(found: Collection) -> tuple[pd.DataFrame, pd.Series, list[tuple[str, list[int]]]]:
    """Return the table of configurations, the row of each run in it, and the series.

    A series are the configurations that differ in their corruption level alone: a label, which
    tells it from the others, and its rows in the table, by rising level.
    """
    table, configuration = configurations(found)
    keys = _find_telling(table, [key for key in found.swept if key not in (*SEEDS, "corrupt")])
    listed = []
    # If no key tells the rows apart, group by one that all share.
    ordered = table.sort_values(keys, key=rank, kind="stable") if keys else table
    for values, rows in ordered.groupby(keys or ["dataset"], dropna=False, sort=False):
        label = ", ".join(_label(key, value) for key, value in zip(keys, values, strict=False))
        listed.append((label or str(table["model"].iloc[0]), list(rows.index)))
    return table, configuration, listed


def _find_telling(table: pd.DataFrame, keys: list[str]) -> list[str]:
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


def lay_out(
    lengths: list[int], label: str = "", width: float = 2.9, height: float = 2.6
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure of rows of panels, of different lengths, with `label` on each row.

    width, height: of a panel, inches.
    """
    rows, columns = len(lengths), max(lengths)
    figure = Figure(figsize=(0.8 + width * columns, 0.3 + height * rows))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panels, length in zip(axes, lengths, strict=True):
        panels[0].set_ylabel(label)
        for unused in panels[length:]:
            unused.remove()
    return figure, [list(panels[:n]) for panels, n in zip(axes, lengths, strict=True)]


def in_rows(items: list[Any], columns: int) -> list[list[Any]]:
    """Return the items in rows of at most `columns`."""
    return [items[i : i + columns] for i in range(0, len(items), columns)]


def curve(
    panel: Axes, mean: np.ndarray, deviation: np.ndarray, style: str, colour: Any, label: str
) -> None:
    """Draw a line over the epochs that were measured, with a band of one deviation."""
    known = ~np.isnan(mean)
    if not known.any():
        return
    x, y, band = np.flatnonzero(known) + 1, mean[known], deviation[known]
    marker = "o" if len(x) < 3 else ""
    panel.plot(x, y, style, color=colour, label=label, marker=marker)
    panel.fill_between(x, y - band, y + band, color=colour, alpha=0.2, linewidth=0)


def over_time(figure: Figure, panels: list[Axes], empty: str, title: str) -> None:
    """Label the axes of a figure over the epochs, and add its legend."""
    for panel in panels:
        panel.set_xlabel("epochs trained")
        panel.set_ylim(bottom=0)
    legend(figure, panels, empty, title)


def legend(figure: Figure, panels: list[Axes], empty: str, title: str) -> None:
    """Add one legend for all panels; an empty panel shows why it is empty.

    It stands above the panels, at the left, where a narrow screen begins to read. The figure
    grows by its height, and long labels are wrapped to its width.
    """
    named: dict[str, Any] = {}
    for panel in panels:
        if not panel.has_data():
            panel.text(0.5, 0.5, empty, ha="center", va="center", transform=panel.transAxes)
        handles, labels = panel.get_legend_handles_labels()
        for name, handle in zip(labels, handles, strict=True):
            named.setdefault(name, handle)
    if not named:
        return
    names = sorted(named, key=float) if title else list(named)
    width, height = figure.get_size_inches()
    characters = int(width * LEGEND_CHARACTERS_PER_INCH)
    texts = [textwrap.fill(name, characters - 6) for name in names]
    columns = max(1, min(6, characters // (6 + max(map(len, "\n".join(texts).split("\n"))))))
    lines = sum(text.count("\n") + 1 for text in texts) / columns + bool(title)
    figure.set_size_inches(width, height + 0.17 * lines)
    handles = [named[name] for name in names]
    above = figure.legend(handles, texts, title=title, loc="outside upper left", ncols=columns)
    above.set_alignment("left")


def level_colour(level: float) -> tuple[float, float, float, float]:
    """Return the colour of a corruption level (0..1): the same in every figure.

    From dark to light, so that grey print keeps the order.
    """
    return colormaps["viridis"](0.85 * level)
