"""The paper's figures from the runs that are done, each a matplotlib figure in one style."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .memorisation import SHARES, derive
from .panels import COLOURS, MARKERS, STYLE, curve, lay_out, lay_out_rows, legend, over_time, shades
from .runs import Collection
from .series import series
from .tables import configurations, curves, over_seeds, spread, time_to_fit

NOTHING_DONE = "no run is done"
"""Why a panel is empty, in most figures."""

LEVELS = 4
"""Corruption levels of a series that stand side by side."""

USUAL = 0.98
"""Share of the points of the learning curves for which their axis has room at least."""

MOST = 6
"""Series in one figure; the tables hold all of them."""


def build(found: Collection) -> dict[str, tuple[Figure, str]]:
    """All figures by name, each with its caption, which ends with the number of seeds. Only runs
    that are done are in them."""
    matplotlib.use("agg")
    figures: dict[str, tuple[Callable[[Collection], Figure], str]] = {
        "learning_curves": (
            learning_curves,
            "Training loss over the epochs (Fig. 1a); rare peaks are cut off.",
        ),
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
        seeds = repetitions(found)
        return {name: (draw(found), f"{text} {seeds}") for name, (draw, text) in figures.items()}


def repetitions(found: Collection) -> str:
    """A sentence: over how many runs the means are."""
    table, _ = configurations(found)
    numbers = sorted({int(n) for n in table["n_done"] if n})
    if len(numbers) < 2 and sum(numbers) < 2:
        return "One run each, so no deviation is known."
    span = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"Means over {span} runs, and their deviation."


def learning_curves(found: Collection) -> Figure:
    """Without the room that a peak of one epoch would take from all curves; chance has room."""
    figure = _over_epochs(
        found, "train loss", {"train_loss": "-"}, lambda level: True, NOTHING_DONE
    )
    drawn = [line.get_ydata() for panel in figure.axes for line in panel.lines]
    if drawn:
        losses = np.concatenate(drawn)
        room = 1.1 * np.fmax(np.quantile(losses, USUAL), np.log(found.runs["classes"].max()))
        if losses.max() > 2 * room:
            for panel in figure.axes:
                panel.set_ylim(top=room)
    return figure


def clean_and_corrupted(found: Collection) -> Figure:
    styles = {"train_acc_clean": "-", "train_acc_corrupted": "--"}
    empty = "no run with corrupted labels is done"
    return _over_epochs(found, "train accuracy (%)", styles, lambda level: 0 < level, empty)


def memorisation(found: Collection) -> Figure:
    """A row of panels for each series, a panel for each level, a line for each share."""
    table, configuration, listed = series(found)
    measured = over_seeds(found, derive(found), configuration, len(table))
    known = ~np.isnan(measured["memorised"][0]).all(1)
    shown = [one for one in listed if known[one.rows].any()][:MOST]
    rows = [spread([row for row in one.rows if known[row]], LEVELS) for one in shown]
    figure, axes = lay_out_rows([len(chosen) for chosen in rows] or [1])
    for one, chosen, panels in zip(shown, rows, axes, strict=False):
        panels[0].set_ylabel(f"{one.label}\n% of changed labels")
        for panel, row in zip(panels, chosen, strict=True):
            panel.set_title(f"corrupt {table['corrupt'].iloc[row]:g}")
            for share, style, colour in zip(SHARES, ["-", "--", ":"], COLOURS, strict=False):
                mean, deviation = measured[share]
                curve(panel, 100 * mean[row], 100 * deviation[row], style, colour, share)
    over_time(figure, sum(axes, []), "no run with changed labels is done", title="")
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
    figure, panels = lay_out(len(listed[:MOST]), label)
    scale = 100 if "%" in label else 1
    levels = sorted(level for level in table["corrupt"].unique() if shown(level))
    colours = dict(zip(levels, shades(len(levels)), strict=True))
    for metric, style in styles.items():
        mean, deviation = curves(found, metric, configuration, len(table))
        for panel, one in zip(panels, listed, strict=False):
            panel.set_title(one.label)
            for row in one.rows:
                if (level := table["corrupt"].iloc[row]) in colours:
                    band = scale * mean[row], scale * deviation[row]
                    curve(panel, *band, style, colours[level], f"{level:g}")
    over_time(figure, panels, empty, title="corruption")
    return figure


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
    figure, (panel,) = lay_out(1, label)
    for one, colour, marker in zip(listed[:MOST], COLOURS, MARKERS, strict=False):
        rows = table.iloc[one.rows].dropna(subset=[mean])
        if len(rows):
            known = rows[deviation].notna().any()
            panel.errorbar(
                rows["corrupt"],
                rows[mean],
                rows[deviation].fillna(0.0) if known else None,
                color=colour,
                marker=marker,
                markersize=4,
                capsize=2,
                label=one.label,
            )
    panel.set_xlabel("label corruption")
    panel.set_xlim(-0.03, 1.03)
    panel.set_ylim(bottom=0)
    legend(figure, [panel], empty, title="")
    return figure
