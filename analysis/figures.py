"""The paper's figures from the runs that are done, each a matplotlib figure in one style."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .memorisation import SHARES, derive
from .runs import Collection
from .series import series
from .tables import configurations, curves, over_seeds, spread, time_to_fit

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

# Okabe & Ito 2008: told apart by colour-blind readers, and by marker in grey print.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]

COLUMNS = 2
"""Panels side by side; two are still readable in the width of a page."""

NOTHING_DONE = "no run is done"
"""Why a panel is empty, in most figures."""

LEVELS = 4
"""Corruption levels of a series that stand side by side."""

MOST = 6
"""Series in one figure; the tables hold all of them."""


def build(found: Collection) -> dict[str, tuple[Figure, str]]:
    """All figures by name, each with its caption. Only runs that are done are in them."""
    matplotlib.use("agg")
    figures: dict[str, tuple[Callable[[Collection], Figure], str]] = {
        "learning_curves": (learning_curves, "Training loss over the epochs (Fig. 1a)."),
        "clean_and_corrupted": (
            clean_and_corrupted,
            "Train accuracy on unchanged labels (solid) and on corrupted ones (dashed).",
        ),
        "memorisation": (
            memorisation,
            "What the network says of the training images whose label was changed: the label it "
            f"was trained on (memorised), the true one, or neither. At up to {LEVELS} levels.",
        ),
        "time_to_fit": (
            fit_times,
            "Epochs until the training set is fitted, relative to true labels (Fig. 1b); levels "
            "at which some run never fitted it are left out.",
        ),
        "test_error": (
            partial(errors, accuracy="final_test_acc", label="test error (%)"),
            "Final error on the true test labels; dashed: chance.",
        ),
        "test_error_noisy": (
            partial(errors, accuracy="final_test_acc_noisy", label="error, noisy test labels (%)"),
            "Final error on test labels corrupted as in training; dashed: chance (Fig. 1c).",
        ),
        "generalization_gap": (gaps, "Final train accuracy minus final test accuracy."),
    }
    with matplotlib.rc_context(STYLE):
        return {name: (draw(found), caption) for name, (draw, caption) in figures.items()}


def learning_curves(found: Collection) -> Figure:
    return _over_epochs(found, "train loss", {"train_loss": "-"}, lambda level: True, NOTHING_DONE)


def clean_and_corrupted(found: Collection) -> Figure:
    styles = {"train_acc_clean": "-", "train_acc_corrupted": "--"}
    empty = "no run with corrupted labels is done"
    return _over_epochs(found, "train accuracy (%)", styles, lambda level: 0 < level, empty)


def memorisation(found: Collection) -> Figure:
    """A row of panels for each series, a panel for each level, a line for each share."""
    table, configuration, listed = series(found)
    records = derive(found)
    measured = {
        share: over_seeds(found, records, share, configuration, len(table)) for share in SHARES
    }
    known = ~np.isnan(measured["memorised"][0]).all(1)
    shown = [one for one in listed if known[one.rows].any()][:MOST]
    rows = [spread([row for row in one.rows if known[row]], LEVELS) for one in shown]
    figure, axes = _grid([len(chosen) for chosen in rows] or [1])
    for one, chosen, panels in zip(shown, rows, axes, strict=False):
        panels[0].set_ylabel(f"{one.label}\n% of changed labels")
        for panel, row in zip(panels, chosen, strict=True):
            panel.set_title(f"corrupt {table['corrupt'].iloc[row]:g}")
            for share, style, colour in zip(SHARES, ["-", "--", ":"], COLOURS, strict=False):
                mean, deviation = measured[share]
                _curve(panel, 100 * mean[row], 100 * deviation[row], style, colour, share)
    _over_time(figure, sum(axes, []), "no run with changed labels is done", title="")
    return figure


def _over_epochs(
    found: Collection,
    label: str,
    styles: dict[str, str],
    shown: Callable[[float], bool],
    empty: str,
) -> Figure:
    """One panel a series, one colour a corruption level, bands of one deviation over seeds."""
    table, configuration, listed = series(found)
    figure, panels = _panels(len(listed[:MOST]), label)
    scale = 100 if "%" in label else 1
    levels = sorted(level for level in table["corrupt"].unique() if shown(level))
    colours = dict(zip(levels, _shades(len(levels)), strict=True))
    for metric, style in styles.items():
        mean, deviation = curves(found, metric, configuration, len(table))
        for panel, one in zip(panels, listed, strict=False):
            panel.set_title(one.label)
            for row in one.rows:
                if (level := table["corrupt"].iloc[row]) in colours:
                    band = scale * mean[row], scale * deviation[row]
                    _curve(panel, *band, style, colours[level], f"{level:g}")
    _over_time(figure, panels, empty, title="corruption")
    return figure


def _curve(
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


def _over_time(figure: Figure, panels: list[Axes], empty: str, title: str) -> None:
    """What all figures over the epochs end with."""
    for panel in panels:
        panel.set_xlabel("epoch")
        panel.set_ylim(bottom=0)
    _legend(figure, panels, empty, title)


def fit_times(found: Collection) -> Figure:
    table = time_to_fit(found)
    table["relative_sd"] = table["epochs_to_fit_sd"] * (
        table["relative"] / table["epochs_to_fit_mean"]
    )
    table["relative"] = table["relative"].where(table["n_fitted"] == table["n_done"])
    label = "time to fit (× true labels)"
    empty = "no level was fitted by all its runs,\nor none at corrupt = 0"
    return _over_levels(found, table, "relative", "relative_sd", label, empty)


def errors(found: Collection, accuracy: str, label: str) -> Figure:
    table = _final(found, 100 * (1 - found.runs[accuracy]))
    figure = _over_levels(found, table, "mean", "sd", label, NOTHING_DONE)
    for classes in sorted(found.runs["classes"].dropna().unique()):
        chance = 100 * (1 - 1 / classes)
        figure.axes[0].axhline(chance, color="#888888", linestyle="--", linewidth=1, zorder=0)
    return figure


def gaps(found: Collection) -> Figure:
    table = _final(found, 100 * (found.runs["final_train_acc"] - found.runs["final_test_acc"]))
    figure = _over_levels(found, table, "mean", "sd", "generalization gap (points)", NOTHING_DONE)
    if table["mean"].min() < 0:  # a model that fits its wrong labels less than the true ones
        figure.axes[0].set_ylim(auto=True)
        figure.axes[0].autoscale(axis="y")
        figure.axes[0].axhline(0, color="#888888", linewidth=1, zorder=0)
    return figure


def _final(found: Collection, values: pd.Series) -> pd.DataFrame:
    """The table of configurations with mean and deviation of the runs' `values` (N,)."""
    table, configuration = configurations(found)
    groups = values.where(found.runs["state"] == "done").groupby(configuration)
    return table.assign(mean=groups.mean(), sd=groups.std())


def _over_levels(
    found: Collection, table: pd.DataFrame, mean: str, deviation: str, label: str, empty: str
) -> Figure:
    """One line a series over the corruption level, with error bars of one deviation."""
    _, _, listed = series(found)
    figure, (panel,) = _panels(1, label)
    for one, colour, marker in zip(listed[:MOST], COLOURS, MARKERS, strict=False):
        rows = table.iloc[one.rows].dropna(subset=[mean])
        if len(rows):
            panel.errorbar(
                rows["corrupt"],
                rows[mean],
                rows[deviation].fillna(0.0),
                color=colour,
                marker=marker,
                markersize=4,
                capsize=2,
                label=one.label,
            )
    panel.set_xlabel("label corruption")
    panel.set_xlim(-0.03, 1.03)
    panel.set_ylim(bottom=0)
    _legend(figure, [panel], empty, title="")
    return figure


def _panels(number: int, label: str) -> tuple[Figure, list[Axes]]:
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


def _grid(lengths: list[int]) -> tuple[Figure, list[list[Axes]]]:
    """Rows of panels, of different lengths."""
    if lengths == [1]:
        figure, panels = _panels(1, "")
        return figure, [panels]
    rows, columns = len(lengths), max(lengths)
    figure = Figure(figsize=(0.9 + 1.6 * columns, 0.9 + 1.7 * rows))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panels, length in zip(axes, lengths, strict=True):
        for unused in panels[length:]:
            unused.remove()
    return figure, [list(panels[:n]) for panels, n in zip(axes, lengths, strict=True)]


def _legend(figure: Figure, panels: list[Axes], empty: str, title: str) -> None:
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
            legend = figure.legend(
                handles, ordered, title=title, loc="outside upper left", ncols=columns
            )
            legend.set_alignment("left")


def _number_first(label: str) -> tuple[float, str]:
    try:
        return float(label), label
    except ValueError:
        return 0.0, label


def _shades(number: int) -> Iterator[tuple[float, float, float, float]]:
    """Colours that also get lighter in grey print, from dark to light."""
    scale = matplotlib.colormaps["viridis"]
    return (scale(0.85 * i / max(1, number - 1)) for i in range(number))
