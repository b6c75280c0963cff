"""How figures look: one style, panels in rows, curves with bands, one legend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
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
"""Okabe & Ito 2008: colour-blind readers tell them apart."""

MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
"""By which grey print tells the lines apart."""

COLUMNS = 2
"""Panels side by side; two are still readable in the width of a page."""


def lay_out(number: int, label: str) -> tuple[Figure, list[Axes]]:
    """A figure of `number` panels in rows of COLUMNS, with `label` on each row's vertical axis."""
    if number == 1:
        figure = Figure(figsize=(3.7, 2.8))
        panel = figure.subplots()
        panel.set_ylabel(label)
        return figure, [panel]
    columns = min(number, COLUMNS)
    rows = -(-number // columns)
    figure = Figure(figsize=(0.4 + 2.9 * columns, 0.7 + 2.6 * rows))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for beginning in axes[:, 0]:
        beginning.set_ylabel(label)
    for unused in axes.flat[number:]:
        unused.remove()
    return figure, list(axes.flat[:number])


def lay_out_rows(lengths: list[int]) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows of panels, of different lengths."""
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
    """A line over the epochs that are known, with a band of one deviation."""
    known = ~np.isnan(mean)
    if not known.any():
        return
    x, y, band = np.flatnonzero(known) + 1, mean[known], deviation[known]
    marker = "." if len(x) < 3 else ""
    panel.plot(x, y, style, color=colour, label=label, marker=marker)
    panel.fill_between(x, y - band, y + band, color=colour, alpha=0.2, linewidth=0)


def over_time(figure: Figure, panels: list[Axes], empty: str, title: str) -> None:
    """What all figures over the epochs end with."""
    for panel in panels:
        panel.set_xlabel("epoch")
        panel.set_ylim(bottom=0)
    legend(figure, panels, empty, title)


def legend(figure: Figure, panels: list[Axes], empty: str, title: str) -> None:
    """One legend for all panels; an empty panel says why it is empty."""
    named: dict[str, Any] = {}
    for panel in panels:
        if not panel.has_data():
            panel.text(0.5, 0.5, empty, ha="center", va="center", transform=panel.transAxes)
        handles, labels = panel.get_legend_handles_labels()
        for name, handle in zip(labels, handles, strict=True):
            named.setdefault(name, handle)
    if named:
        ordered = sorted(named, key=_number_first)
        handles = [named[name] for name in ordered]
        if len(panels) == 1:
            panels[0].legend(handles, ordered, title=title)
        else:
            # At the upper left, where a narrow screen begins to read.
            columns = min(6, len(ordered))
            above = figure.legend(
                handles, ordered, title=title, loc="outside upper left", ncols=columns
            )
            above.set_alignment("left")


def _number_first(label: str) -> tuple[float, str]:
    try:
        return float(label), label
    except ValueError:
        return 0.0, label


def shades(number: int) -> Iterator[tuple[float, float, float, float]]:
    """Colours that also get lighter in grey print, from dark to light."""
    scale = matplotlib.colormaps["viridis"]
    return (scale(0.85 * i / max(1, number - 1)) for i in range(number))
