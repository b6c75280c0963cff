"""The look of figures: one style, panels in rows, curves with bands, one legend."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    "legend.frameon": False,
    "legend.fontsize": 8,
    "pdf.fonttype": 42,
}

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
"""Okabe & Ito 2008: distinct for colour-blind readers."""

MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
"""They distinguish lines in grey print."""

PANELS_IN_A_ROW = 2
"""Still readable in the width of a page."""

LEGEND_CHARACTERS_PER_INCH = 11
"""At the font size of a legend, with its handles."""


def lay_out(number: int, label: str) -> tuple[Figure, list[Axes]]:
    """Return a figure of `number` panels in rows, with `label` on each row's vertical axis."""
    if number == 1:
        figure = Figure(figsize=(3.7, 2.8))
        panel = figure.subplots()
        panel.set_ylabel(label)
        return figure, [panel]
    columns = min(number, PANELS_IN_A_ROW)
    rows = -(-number // columns)
    figure = Figure(figsize=(0.4 + 2.9 * columns, 0.7 + 2.6 * rows))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for first in axes[:, 0]:
        first.set_ylabel(label)
    for unused in axes.flat[number:]:
        unused.remove()
    return figure, list(axes.flat[:number])


def lay_out_rows(lengths: list[int]) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure of rows of panels, of different lengths."""
    if lengths == [1]:
        figure, panels = lay_out(1, "")
        return figure, [panels]
    rows, columns = len(lengths), max(lengths)
    figure = Figure(figsize=(0.9 + 1.6 * columns, 0.9 + 1.7 * rows))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panels, length in zip(axes, lengths, strict=True):
        for unused in panels[length:]:
            unused.remove()
    return figure, [list(panels[:n]) for panels, n in zip(axes, lengths, strict=True)]


def curve(
    panel: Axes, mean: np.ndarray, deviation: np.ndarray, style: str, colour: Any, label: str
) -> None:
    """Draw a line over the epochs that were measured, with a band of one deviation."""
    known = ~np.isnan(mean)
    if not known.any():
        return
    x, y, band = np.flatnonzero(known) + 1, mean[known], deviation[known]
    marker = "." if len(x) < 3 else ""
    panel.plot(x, y, style, color=colour, label=label, marker=marker)
    panel.fill_between(x, y - band, y + band, color=colour, alpha=0.2, linewidth=0)


def over_time(figure: Figure, panels: list[Axes], empty: str, title: str) -> None:
    """Label the axes of a figure over the epochs, and add its legend."""
    for panel in panels:
        panel.set_xlabel("epoch")
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
    names = sorted(named, key=float) if all(map(_is_number, named)) else list(named)
    width, height = figure.get_size_inches()
    characters = int(width * LEGEND_CHARACTERS_PER_INCH)
    texts = [textwrap.fill(name, characters - 6) for name in names]
    columns = max(1, min(6, characters // (6 + max(map(len, "\n".join(texts).split("\n"))))))
    lines = sum(text.count("\n") + 1 for text in texts) / columns + bool(title)
    figure.set_size_inches(width, height + 0.17 * lines)
    above = figure.legend(
        [named[name] for name in names],
        texts,
        title=title,
        loc="outside upper left",
        ncols=columns,
    )
    above.set_alignment("left")


def _is_number(label: str) -> bool:
    return label.replace(".", "", 1).isdecimal()


def level_colour(level: float) -> tuple[float, float, float, float]:
    """Return the colour of a corruption level (0..1): the same in every figure.

    From dark to light, so that grey print keeps the order.
    """
    return colormaps["viridis"](0.85 * level)
