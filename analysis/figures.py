"""Draw the paper's figures from the runs that are done, all in one style."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import theory
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
    place,
    series,
)
from .runs import Collection
from .tables import SHARES, configurations, derive, over_seeds, spread, time_to_fit

NOTHING_DONE = "no run is done"
MAX_LEVELS = 4  # of a series, in the memorisation figure
SHARE_IN_VIEW = 0.98  # of the points of the learning curves; rare peaks are cut off
GUIDE: Any = {"color": "#888888", "linewidth": 1, "zorder": 0}

CAPTIONS = {
    "learning_curves": "Training loss over the epochs (Fig. 1a); rare peaks are cut off.",
    "clean_and_corrupted": "Train accuracy on unchanged labels (solid) and on corrupted ones "
    "(dashed).",
    "memorisation": "Predictions for the training images whose label was changed: the label "
    f"trained on (memorised), the true one, or neither. At up to {MAX_LEVELS} levels.",
    "time_to_fit": "Epochs until the training set is fitted, relative to true labels (Fig. 1b); "
    "levels at which some run never fitted it are left out.",
    "epochs_to_fit": "Epochs until the training set is fitted, mean over the runs that fitted it.",
    "train_error": "Final error on the labels trained on; dotted: chance.",
    "train_loss": "Final loss on the labels trained on.",
    "test_loss": "Final loss on the true test labels.",
    "test_error": "Final error on the true test labels; dotted: chance.",
    "test_error_noisy": "Final error on test labels corrupted as in training (Fig. 1c); dashed: "
    "the closed form, from the error at corrupt = 0; dotted: chance.",
    "generalization_gap": "Final train accuracy minus final test accuracy.",
}


def build(found: Collection, columns: int = 2, x: str = "corrupt") -> dict[str, tuple[Figure, str]]:
    """Return all figures of the runs that are done by name, each with its caption.

    columns: panels in a row; 2 fit the width of a page, 1 that of a phone.
    x: key or `parameters` on the x axis. Others than `corrupt` have figures of final values only.
    """
    axis: Any = {"x": x, "columns": columns}
    with matplotlib.rc_context(fname=STYLE):
        if x == "corrupt":
            figures = {
                "learning_curves": learning_curves(found, columns),
                "clean_and_corrupted": clean_and_corrupted(found, columns),
                "memorisation": memorisation(found, 2 * columns),
                "time_to_fit": fit_times(found),
            }
        else:
            times, label = found.runs["epochs_to_fit"], "epochs to fit"
            train, test = found.runs["final_train_loss"], found.runs["final_test_loss"]
            figures = {
                "epochs_to_fit": _draw_final(found, times, label, "no run fitted", **axis),
                "train_error": errors(found, "final_train_acc", "train error (%)", **axis),
                "train_loss": _draw_final(found, train, "train loss", **axis),
                "test_loss": _draw_final(found, test, "test loss", **axis),
            }
        figures |= {
            "test_error": errors(found, "final_test_acc", "test error (%)", **axis),
            "test_error_noisy": noisy_errors(found, **axis),
            "generalization_gap": gaps(found, **axis),
        }
    by = "" if x == "corrupt" else f" One line per corruption level, by {x}."
    return {name: (figure, CAPTIONS[name] + by) for name, figure in figures.items()}


def repetitions(found: Collection) -> str:
    """Return a sentence on the number of runs in a mean."""
    table, _ = configurations(found)
    numbers = sorted({int(n) for n in table["n_done"] if n})
    if sum(numbers) < 2:
        return "One run each, so no deviation is known."
    span = " to ".join(map(str, numbers[:1] + numbers[1:][-1:]))
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
            figure.axes[0].set_ylim(top=room)
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
        return over_time(lay_out([[0]])[0], "no run with changed labels is done", title="")
    figure, panels = lay_out([chosen for _, chosen in rows], width=1.6, height=1.8)
    drawn = [(label, chosen[0], row) for label, chosen in rows for row in chosen]
    for panel, (label, first, row) in zip(panels, drawn, strict=True):
        panel.set_ylabel(f"{label}\n% of changed labels" if row == first else "")
        panel.set_title(f"corrupt {table['corrupt'].iloc[row]:g}")
        for share, style, colour in zip(SHARES, ["-", "--", ":"], COLOURS, strict=False):
            mean, deviation = (100 * values[row] for values in measured[share])
            curve(panel, mean, deviation, linestyle=style, color=colour, label=share)
    return over_time(figure, "", title="")


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
    figure, panels = lay_out(in_rows(shown, columns), label)
    scale = 100 if "%" in label else 1
    records = found.metrics(*styles) if records is None else records
    measured = over_seeds(found, records, configuration, len(table))
    for panel, (name, rows) in zip(panels, shown, strict=True):
        panel.set_title(name)
        for row in rows:
            level = table["corrupt"].iloc[row]
            for metric, style in styles.items():
                if len(styles) == 1 or level > 0:
                    mean, deviation = (scale * values[row] for values in measured[metric])
                    look = {"color": level_colour(level), "label": f"{level:g}"}
                    curve(panel, mean, deviation, linestyle=style, **look)
    empty = NOTHING_DONE if len(styles) == 1 else empty
    return over_time(figure, empty, title="corrupt")


def fit_times(found: Collection) -> Figure:
    """Draw the time to fit relative to that of true labels."""
    table = time_to_fit(found)
    mean = table["relative"].where(table["n_fitted"] == table["n_done"])
    empty = "no level was fitted by all its runs,\nor none at corrupt = 0"
    return _over_x(found, mean, table["relative_sd"], "time to fit (× true labels)", empty)


def errors(found: Collection, accuracy: str, label: str, **axis: Any) -> Figure:
    """Draw one minus a final accuracy, and the error of guessing."""
    figure = _draw_final(found, 1 - found.runs[accuracy], label, **axis)
    for classes in sorted(found.runs["classes"].dropna().unique()):
        for panel in figure.axes:
            panel.axhline(100 * (1 - 1 / classes), **GUIDE, linestyle=":")
    return figure


def noisy_errors(found: Collection, **axis: Any) -> Figure:
    """Draw the error on noisy test labels, its closed form, and the error of guessing."""
    closed_form = 100 * theory.noisy_errors(found)["theory"]
    label = "error, noisy test labels (%)"
    return errors(found, "final_test_acc_noisy", label, dashed=closed_form, **axis)


def gaps(found: Collection, **axis: Any) -> Figure:
    """Draw the final train accuracy minus the final test accuracy."""
    values = found.runs["final_train_acc"] - found.runs["final_test_acc"]
    return _draw_final(found, values, "generalization gap (%)", **axis)


def _draw_final(
    found: Collection, values: pd.Series, label: str, empty: str = NOTHING_DONE, **axis: Any
) -> Figure:
    """Draw the means of the runs' `values` (N,), fractions in % if the label says so."""
    scaled = (100 if "%" in label else 1) * values
    groups = scaled.where(found.counted).groupby(configurations(found)[1])
    return _over_x(found, groups.mean(), groups.std(), label, empty, **axis)


def _over_x(
    found: Collection,
    mean: pd.Series,
    sd: pd.Series,
    label: str,
    empty: str,
    x: str = "corrupt",
    columns: int = 2,
    dashed: pd.Series | None = None,
) -> Figure:
    """Draw `mean` (of each configuration) by `x`, with error bars of `sd` where known.

    By `corrupt`, one line per series in one panel; by another key, a panel per series, with one
    line per corruption level, in its colour.

    dashed: further values of each configuration, as dashed lines.
    """
    table, _, listed = series(found, x)
    table = table.assign(y=mean, sd=sd, dashed=dashed)[table["n_done"] > 0]
    levels, shown = x != "corrupt", listed[:MAX_DRAWN_SERIES]
    figure, panels = lay_out(in_rows(shown, columns) if levels else [[0]], label)
    table = table.assign(at=place(panels, table[x], x)).dropna(subset="y")
    for i, (name, rows) in enumerate(shown):
        of_series = table[table.index.isin(rows)]
        if levels:
            panels[i].set_title(name)
            for level in sorted(set(of_series["corrupt"])):
                points = of_series[of_series["corrupt"] == level]
                _line(panels[i], points, level_colour(level), "o", f"{level:g}")
        else:
            _line(panels[0], of_series, COLOURS[i], MARKERS[i], name)
    if not levels:
        panels[0].set_xlim(-0.03, 1.03)
    if mean.min() < 0:  # a gap, where a model fits wrong labels less than the true ones
        for panel in panels:
            panel.axhline(0, **GUIDE)
    else:
        panels[0].set_ylim(bottom=0)
    return legend(figure, empty, title="corrupt" if levels else "")


def _line(panel: Axes, points: pd.DataFrame, color: Any, marker: str, name: str) -> None:
    """Draw the columns `y`, with bars of `sd` where known, and `dashed` by the column `at`."""
    points = points.sort_values("at")
    bars = points["sd"] if points["sd"].notna().any() else None
    if len(points):
        panel.errorbar(points["at"], points["y"], bars, color=color, marker=marker, label=name)
        panel.plot(points["at"], points["dashed"], "--", color=color, linewidth=1)
