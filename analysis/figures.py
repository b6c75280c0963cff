"""Draw the paper's figures from the runs that are done, all in one style."""

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
    lay_out,
    legend,
    level_colour,
    place,
    series,
)
from .runs import Collection
from .tables import configurations, derive, over_seeds, time_to_fit

NOTHING_DONE = "no run is done"
NOTHING_CHANGED = "no run with changed labels is done"
NOTHING_FITTED = "no level was fitted by all its runs,\nor none at corrupt = 0"
SHARE_IN_VIEW = 0.98  # of the points of the learning curves; rare peaks are cut off
GUIDE: Any = {"color": "#888888", "linewidth": 1, "zorder": 0}

CAPTIONS = {
    "learning_curves": "Training loss over the epochs (Fig. 1a); rare peaks are cut off.",
    "clean_and_corrupted": "Train accuracy on unchanged labels (solid) and on corrupted ones "
    "(dashed).",
    "memorisation": "Training images whose label was changed, by what is predicted: the label "
    "trained on (solid, memorised) or the true one (dashed); the rest is neither.",
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
    runs, configuration = found.runs, configurations(found)[1]

    def draw(values: pd.Series, label: str, **more: Any) -> Figure:
        scaled = (100 if "%" in label else 1) * values
        groups = scaled.where(found.counted).groupby(configuration)
        means = groups.mean(), groups.std()
        return draw_by_key(found, *means, label, x=x, columns=columns, **more)

    with matplotlib.rc_context(fname=STYLE):
        if x == "corrupt":
            accuracies = {"train_acc_clean": "-", "train_acc_corrupted": "--"}
            shares = {"memorised": "-", "true": "--"}
            times = time_to_fit(found)
            ratio = times["relative"].where(times["n_fitted"] == times["n_done"])
            ratios = ratio, times["relative_sd"], "time to fit (× true labels)"
            figures = {
                "learning_curves": learning_curves(found, columns),
                "clean_and_corrupted": draw_over_epochs(
                    found, "train accuracy (%)", accuracies, columns
                ),
                "memorisation": draw_over_epochs(
                    found, "changed labels (%)", shares, columns, derive(found), NOTHING_CHANGED
                ),
                "time_to_fit": draw_by_key(found, *ratios, NOTHING_FITTED),
            }
        else:
            to_fit = runs["epochs_to_fit"]
            figures = {
                "epochs_to_fit": draw(to_fit, "epochs to fit", empty="no run fitted"),
                "train_error": draw(1 - runs["final_train_acc"], "train error (%)"),
                "train_loss": draw(runs["final_train_loss"], "train loss"),
                "test_loss": draw(runs["final_test_loss"], "test loss"),
            }
        noisy, closed_form = 1 - runs["final_test_acc_noisy"], theory.noisy_errors(found)["theory"]
        gap = runs["final_train_acc"] - runs["final_test_acc"]
        figures |= {
            "test_error": draw(1 - runs["final_test_acc"], "test error (%)"),
            "test_error_noisy": draw(
                noisy, "error, noisy test labels (%)", dashed=100 * closed_form
            ),
            "generalization_gap": draw(gap, "generalization gap (%)"),
        }
    errors = [figure for name, figure in figures.items() if "error" in name]
    for panel in (panel for figure in errors for panel in figure.axes):
        for classes in sorted(runs["classes"].dropna().unique()):
            panel.axhline(100 * (1 - 1 / classes), **GUIDE, linestyle=":")  # of guessing
    by = "" if x == "corrupt" else f" One line per corruption level, by {x}."
    return {name: (figure, CAPTIONS[name] + by) for name, figure in figures.items()}


def repetitions(found: Collection) -> str:
    """Return a sentence on the number of runs in a mean."""
    numbers = sorted(set(configurations(found)[0]["n_done"]) - {0})
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
    losses, chance = np.concatenate([[0.0], *drawn]), np.log(found.runs["classes"].max())
    room = 1.1 * np.fmax(np.quantile(losses, SHARE_IN_VIEW), chance)
    if losses.max() > 2 * room:
        figure.axes[0].set_ylim(top=room)
    return figure


def draw_over_epochs(
    found: Collection,
    label: str,
    styles: dict[str, str],
    columns: int,
    records: pd.DataFrame | None = None,
    empty: str = NOTHING_DONE,
) -> Figure:
    """Draw one panel per series, one colour per corruption level, and bands of one deviation.

    styles: line style of each metric.
    records: as `over_seeds` takes them; default: those of the runs.
    empty: the text of an empty panel.
    """
    table, listed = series(found)
    shown = listed[:MAX_DRAWN_SERIES]
    figure, panels = lay_out(shown, columns, label)
    scale = 100 if "%" in label else 1
    measured = over_seeds(found, found.metrics(*styles) if records is None else records)
    for panel, (name, rows) in zip(panels, shown, strict=True):
        panel.set(title=name, xlabel="epochs trained")
        for level, row in ((table["corrupt"].iloc[row], row) for row in rows):
            for metric, style in styles.items():
                mean, deviation = (scale * values[row] for values in measured[metric])
                look = {"color": level_colour(level), "label": f"{level:g}"}
                curve(panel, mean, deviation, linestyle=style, **look)
    panels[0].set_ylim(bottom=0)  # of all panels, and after the last one
    return legend(figure, empty, title="corrupt")


def draw_by_key(
    found: Collection,
    mean: pd.Series,
    sd: pd.Series,
    label: str,
    empty: str = NOTHING_DONE,
    x: str = "corrupt",
    columns: int = 2,
    dashed: pd.Series | None = None,
) -> Figure:
    """Draw `mean` (of each configuration) by `x`, with error bars of `sd` where known.

    By `corrupt`, one line per series in one panel; by another key, a panel per series, with one
    line per corruption level, in its colour.

    dashed: further values of each configuration, as dashed lines.
    """
    table, listed = series(found, x)
    table = table.assign(y=mean, sd=sd, dashed=dashed)[table["n_done"] > 0]
    by_level, shown = x != "corrupt", listed[:MAX_DRAWN_SERIES]
    figure, panels = lay_out(shown if by_level else [x], columns, label)
    table = table.assign(at=place(panels, table[x], x)).dropna(subset="y")
    table = table.sort_values("at", kind="stable")
    for i, (name, rows) in enumerate(shown):
        points = table[table.index.isin(rows)]
        if by_level:
            panels[i].set_title(name)
            for level in sorted(set(points["corrupt"])):
                of_level = points[points["corrupt"] == level]
                _line(panels[i], of_level, level_colour(level), "o", f"{level:g}")
        elif len(points):
            _line(panels[0], points, COLOURS[i], MARKERS[i], name)
    if not by_level:
        panels[0].set_xlim(-0.03, 1.03)
    if mean.min() < 0:  # a gap, where a model fits wrong labels less than the true ones
        for panel in panels:
            panel.axhline(0, **GUIDE)
    else:
        panels[0].set_ylim(bottom=0)
    return legend(figure, empty, title="corrupt" if by_level else "")


def _line(panel: Axes, points: pd.DataFrame, color: Any, marker: str, name: str) -> None:
    """Draw the columns `y`, with bars of `sd` where known, and `dashed` by the column `at`."""
    bars = points["sd"] if points["sd"].notna().any() else None
    panel.errorbar(points["at"], points["y"], bars, color=color, marker=marker, label=name)
    panel.plot(points["at"], points["dashed"], "--", color=color, linewidth=1)
