"""Draw the paper's figures from the runs that are done, all in one style."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .panels import (
    COLOURS,
    MARKERS,
    MAX_DRAWN_SERIES,
    STYLE,
    curve,
    in_rows,
    lay_out,
    legend,
    level_colour,
    over_time,
    series,
)
from .runs import Collection
from .tables import SHARES, configurations, derive, over_seeds, spread, time_to_fit

NOTHING_DONE = "no run is done"
"""The text of most empty panels."""

MAX_LEVELS = 4
"""Largest number of corruption levels of a series in the memorisation figure."""

SHARE_IN_VIEW = 0.98
"""Share of the points of the learning curves that the axis shows; rare peaks are cut off."""


def build(found: Collection, columns: int = 2) -> dict[str, tuple[Figure, str]]:
    """Return all figures of the runs that are done by name, each with its caption.

    columns: panels in a row; 2 fit the width of a page, 1 that of a phone.
    """
    figures: dict[str, tuple[Callable[[Collection], Figure], str]] = {
        "learning_curves": (
            partial(learning_curves, columns=columns),
            "Training loss over the epochs (Fig. 1a); rare peaks are cut off.",
        ),
        "clean_and_corrupted": (
            partial(clean_and_corrupted, columns=columns),
            "Train accuracy on unchanged labels (solid) and on corrupted ones (dashed).",
        ),
        "memorisation": (
            partial(memorisation, columns=2 * columns),
            "Predictions for the training images whose label was changed: the label trained on "
            f"(memorised), the true one, or neither. At up to {MAX_LEVELS} levels.",
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
        return {name: (draw(found), text) for name, (draw, text) in figures.items()}


def repetitions(found: Collection) -> str:
    """Return a sentence on the number of runs in a mean."""
    table, _ = configurations(found)
    numbers = sorted({int(n) for n in table["n_done"] if n})
    if len(numbers) < 2 and sum(numbers) < 2:
        return "One run each, so no deviation is known."
    span = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"Means over {span} runs, with their sample deviation."


def learning_curves(found: Collection, columns: int = 2) -> Figure:
    """Draw the training loss.

    The axis ends above most points and above chance, since one high peak would flatten all curves.
    """
    figure = draw_over_epochs(found, "train loss", {"train_loss": "-"}, columns)
    drawn = [line.get_ydata() for panel in figure.axes for line in panel.lines]
    if drawn:
        losses, chance = np.concatenate(drawn), np.log(found.runs["classes"].max())
        room = 1.1 * np.fmax(np.quantile(losses, SHARE_IN_VIEW), chance)
        if losses.max() > 2 * room:
            for panel in figure.axes:
                panel.set_ylim(top=room)
    return figure


def clean_and_corrupted(found: Collection, columns: int = 2) -> Figure:
    """Draw the train accuracy on unchanged and on corrupted labels."""
    styles = {"train_acc_clean": "-", "train_acc_corrupted": "--"}
    return draw_over_epochs(found, "train accuracy (%)", styles, columns)


def memorisation(found: Collection, columns: int = 4) -> Figure:
    """Draw rows of panels for each series, a panel per level, a line per share."""
    table, configuration, listed = series(found)
    measured = over_seeds(found, derive(found), configuration, len(table))
    known = ~np.isnan(measured["memorised"][0]).all(1)
    shown = [(label, rows) for label, rows in listed if known[rows].any()][:MAX_DRAWN_SERIES]
    rows = [
        (label, chosen)
        for label, levels in shown
        for chosen in in_rows(spread([row for row in levels if known[row]], MAX_LEVELS), columns)
    ]
    if not rows:
        figure, (panels,) = lay_out([1])
        over_time(figure, panels, "no run with changed labels is done", title="")
        return figure
    figure, axes = lay_out([len(chosen) for _, chosen in rows], width=1.6, height=1.8)
    for (label, chosen), panels in zip(rows, axes, strict=True):
        panels[0].set_ylabel(f"{label}\n% of changed labels")
        for panel, row in zip(panels, chosen, strict=True):
            panel.set_title(f"corrupt {table['corrupt'].iloc[row]:g}")
            for share, style, colour in zip(SHARES, ["-", "--", ":"], COLOURS, strict=False):
                mean, deviation = measured[share]
                curve(panel, 100 * mean[row], 100 * deviation[row], style, colour, share)
    over_time(figure, sum(axes, []), "", title="")
    return figure


def draw_over_epochs(
    found: Collection,
    label: str,
    styles: dict[str, str],
    columns: int,
    records: pd.DataFrame | None = None,
    empty: str = "no run with corrupted labels is done",
) -> Figure:
    """Draw one panel per series, one colour per corruption level, and bands of one deviation.

    styles: line style of each metric. Runs on true labels are shown only if there is one metric.
    records: as `over_seeds` takes them; default: those of the runs.
    empty: the text of an empty panel, if there are several metrics.
    """
    table, configuration, listed = series(found)
    shown = listed[:MAX_DRAWN_SERIES]
    figure, axes = lay_out([len(row) for row in in_rows(shown, columns)], label)
    scale = 100 if "%" in label else 1
    records = found.metrics(*styles) if records is None else records
    measured = over_seeds(found, records, configuration, len(table))
    for metric, style in styles.items():
        mean, deviation = measured[metric]
        for panel, (name, rows) in zip(sum(axes, []), shown, strict=True):
            panel.set_title(name)
            for row in rows:
                if len(styles) == 1 or table["corrupt"].iloc[row] > 0:
                    level = table["corrupt"].iloc[row]
                    band = scale * mean[row], scale * deviation[row]
                    curve(panel, *band, style, level_colour(level), f"{level:g}")
    empty = NOTHING_DONE if len(styles) == 1 else empty
    over_time(figure, sum(axes, []), empty, title="corrupt")
    return figure


def fit_times(found: Collection) -> Figure:
    """Draw the time to fit relative to that of true labels."""
    table = time_to_fit(found)
    mean = table["relative"].where(table["n_fitted"] == table["n_done"])
    table = table.assign(mean=mean, sd=table["relative_sd"])
    empty = "no level was fitted by all its runs,\nor none at corrupt = 0"
    return _over_levels(found, table, "time to fit (× true labels)", empty)


def errors(found: Collection, accuracy: str, label: str) -> Figure:
    """Draw one minus a final accuracy, and the error of guessing."""
    figure = _draw_final(found, 1 - found.runs[accuracy], label)
    for classes in sorted(found.runs["classes"].dropna().unique()):
        chance = 100 * (1 - 1 / classes)
        figure.axes[0].axhline(chance, color="#888888", linestyle="--", linewidth=1, zorder=0)
    return figure


def gaps(found: Collection) -> Figure:
    """Draw the final train accuracy minus the final test accuracy."""
    values = found.runs["final_train_acc"] - found.runs["final_test_acc"]
    return _draw_final(found, values, "generalization gap (%)")


def _draw_final(found: Collection, values: pd.Series, label: str) -> Figure:
    """Draw the means of the runs' `values` (N,), fractions, in %."""
    table, configuration = configurations(found)
    groups = (100 * values).where(found.counted).groupby(configuration)
    return _over_levels(found, table.assign(mean=groups.mean(), sd=groups.std()), label)


def _over_levels(
    found: Collection, table: pd.DataFrame, label: str, empty: str = NOTHING_DONE
) -> Figure:
    """Draw one line per series: `mean` by corruption level, with error bars of `sd` where known."""
    _, _, listed = series(found)
    figure, ((panel,),) = lay_out([1], label)
    drawn = listed[:MAX_DRAWN_SERIES]
    for (name, rows), colour, marker in zip(drawn, COLOURS, MARKERS, strict=False):
        points = table.iloc[rows].dropna(subset=["mean"])
        bars = points["sd"] if points["sd"].notna().any() else None
        if len(points):
            x, y = points["corrupt"], points["mean"]
            panel.errorbar(x, y, bars, color=colour, marker=marker, label=name)
    panel.set_xlabel("corrupt")
    panel.set_xlim(-0.03, 1.03)
    if table["mean"].min() < 0:  # a gap, where a model fits wrong labels less than the true ones
        panel.axhline(0, color="#888888", linewidth=1, zorder=0)
    else:
        panel.set_ylim(bottom=0)
    legend(figure, [panel], empty, title="")
    return figure
