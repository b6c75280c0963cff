"""The look of figures: one style, series, panels in rows, curves with bands, one legend."""

import itertools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .runs import LEADING_KEYS, SEEDS, Collection, rank
from .tables import configurations, label, override, spread

STYLE = Path(__file__).with_name("figures.mplstyle")
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe & Ito 2008
MARKERS = "os^DvP"  # of series, which distinguish lines that are printed in grey
MAX_DRAWN_SERIES = len(MARKERS)  # in a figure; the tables hold all of them
LOGARITHMIC_SPAN = 20  # an axis whose values span a larger factor is logarithmic
MAX_TICKS = 5  # of a logarithmic axis
LEGEND_CHARACTERS_PER_INCH = 11  # an estimate for the font size of a legend, with its handles


SeriesList = list[tuple[str, list[int]]]  # labels, and rows in the table of configurations


def series(found: Collection, x: str = "corrupt") -> tuple[pd.DataFrame, SeriesList]:
    """Return the table of configurations, and the series in it.

    The configurations of a series differ in their corruption level and in `x` alone. It has a
    label, which tells it from the others, and its rows in the table, by rising level. A key whose
    value follows from `x`, such as a width from `parameters`, does not tell series apart.
    """
    table, configuration = configurations(found)
    if x not in table:
        table[x] = found.runs[x].groupby(configuration).first()
    keys = [key for key in found.swept if key not in (*SEEDS, "corrupt", x)]
    telling: list[str] = []
    for key in sorted(keys, key=lambda key: key != "model"):
        given = telling if x == "corrupt" or key in LEADING_KEYS else [x, *telling]
        if _count_groups(table, [*given, key]) > _count_groups(table, given):
            telling.append(key)
    # If no key tells the rows apart, group by one that all share.
    ordered = table.sort_values(telling, key=rank, kind="stable") if telling else table
    listed = []
    for values, rows in ordered.groupby(telling or ["dataset"], dropna=False, sort=False):
        texts = [label(key, value) for key, value in zip(telling, values, strict=False)]
        listed.append((", ".join(texts) or str(table["model"].iloc[0]), list(rows.index)))
    return table, listed


def _count_groups(table: pd.DataFrame, keys: list[str]) -> int:
    return table.groupby(keys, dropna=False).ngroups if keys else 1


def lay_out(
    items: Sequence[Any], columns: int, label: str = "", width: float = 2.9, height: float = 2.6
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for each of the `items`, and its panels.

    items: in the order of reading; a place whose item is None stays empty.
    label: on the first panel of each row.
    width, height: of a panel, inches.
    """
    columns = min(columns, len(items))
    rows = math.ceil(len(items) / columns)
    figure = Figure(figsize=(0.8 + width * columns, 0.3 + height * rows))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel in axes[:, 0]:
        panel.set_ylabel(label)
    for panel, item in itertools.zip_longest(axes.flat, items):
        if item is None:
            panel.remove()
    return figure, figure.axes


def curve(panel: Axes, mean: np.ndarray, deviation: np.ndarray, **look: Any) -> None:
    """Draw a line over the epochs that were measured, with a band of one deviation."""
    known = ~np.isnan(mean)
    if not known.any():
        return
    x, y, band = np.flatnonzero(known) + 1, mean[known], deviation[known]
    panel.plot(x, y, marker="o" if len(x) < 3 else "", **look)
    panel.fill_between(x, y - band, y + band, color=look["color"], alpha=0.2, linewidth=0)


def legend(figure: Figure, empty: str, title: str = "") -> Figure:
    """Add one legend for all panels; an empty panel shows why it is empty.

    It stands above the panels, at the left, where a narrow screen begins to read. The figure
    grows by its height, and long labels are wrapped to its width.
    """
    named: dict[str, Any] = {}
    for panel in figure.axes:
        if not panel.has_data():
            panel.text(0.5, 0.5, empty, ha="center", va="center", transform=panel.transAxes)
        handles, labels = panel.get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True)) | named
    if not named:
        return figure
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
    return figure


def place(panels: list[Axes], values: pd.Series, key: str) -> pd.Series:
    """Return where the `values` of a key stand on the x axis, and set up that axis.

    Numbers, also the one in `[512]`, stand at themselves: on a logarithmic axis if they are
    positive and span more than a factor of `LOGARITHMIC_SPAN`. Other values stand in their order.
    """
    numbers = pd.to_numeric(values.astype("str").str.strip("[]"), errors="coerce")
    shown = sorted(set(numbers))
    for panel in panels:
        panel.set_xlabel(key)
    if numbers.isna().any():
        order = [override(value) for value in values.drop_duplicates().sort_values(key=rank)]
        for panel in panels:
            panel.set_xticks(range(len(order)), order, rotation=30, ha="right")
        return values.map(override).map(order.index)
    if key != "corrupt" and shown and 0 < LOGARITHMIC_SPAN * shown[0] < shown[-1]:
        ticks = spread(shown, MAX_TICKS)
        for panel in panels:
            panel.set_xscale("log")
            panel.set_xticks(ticks, [f"{tick:,.10g}" for tick in ticks])
            panel.minorticks_off()
    return numbers


def level_colour(level: float) -> tuple[float, float, float, float]:
    """Return the colour of a corruption level (0..1), the same in every figure."""
    return colormaps["viridis"](0.85 * level)  # from dark to light, as grey print keeps the order
