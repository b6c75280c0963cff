"""Draw which labels are wrong: distributions, learning, detection, and suspicious images."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import randlabels

from .detection import LOW_IF_WRONG, SCORES, auroc, read, snapshots
from .figures import GUIDE, NOTHING_CHANGED, draw_over_epochs
from .panels import COLOURS, MARKERS, MAX_DRAWN_SERIES, STYLE, SeriesList, lay_out, legend, series
from .runs import Collection
from .tables import configurations, spread

MAX_EPOCHS = 4  # whose distributions are drawn for a run
IN_THE_END = {"loss": "last epoch", "margin": "mean of epochs"}  # what these columns hold
MAX_IMAGES = 24
SMALLEST_DRAWN_LOSS = 1e-7  # a smaller cross-entropy is 0 in float32, which has no logarithm
STYLES = {"unchanged": "-", "changed": "--"}  # the two groups of labels, with their line styles
CAPTIONS = {
    "loss_distribution": "Training images by loss in one run per row (DivideMix, Figure 2); AUROC: "
    "how well the loss finds the changed labels.",
    "margin_distribution": "Training images by margin, the logit of the label minus the largest "
    "other one.",
    "first_learned": "Training images that were predicted as their label in some epoch until then: "
    "unchanged labels (solid) and changed ones (dashed).",
    "detection": "How well the scores in detection.csv find the changed labels; dotted: chance.",
}

# A run for each series, by row among the configurations: label, folder, examples.
Chosen = dict[int, tuple[str, str, pd.DataFrame]]


def build(
    found: Collection, table: pd.DataFrame, columns: int = 2
) -> dict[str, tuple[Figure, str]]:
    """Return the figures of the runs with changed labels by name, each with its caption.

    A reason why images cannot be shown is added to `found.problems`.

    table: of `detection.table`, with at least one row.
    columns: panels in a row; 2 fit the width of a page, 1 that of a phone.
    """
    configuration, (_, listed) = configurations(found)[1], series(found)
    listed = [(name, [row for row in rows if row in table.index]) for name, rows in listed]
    listed = [(name, rows) for name, rows in listed if rows][:MAX_DRAWN_SERIES]
    middle = {rows[len(rows) // 2]: name for name, rows in listed}
    chosen: Chosen = {}
    learned = []
    for run, examples in read(found):
        learned.append(share_learned(run, found.runs["epochs"][run], examples))
        if (row := configuration[run]) in middle:
            label = f"{middle[row]}, corrupt {found.runs['corrupt'][run]:g}"
            chosen.setdefault(row, (label, found.runs["folder"][run], examples))
    shares = pd.concat(learned)
    with matplotlib.rc_context(fname=STYLE):
        figures = {
            "loss_distribution": distributions(chosen, "loss", 2 * columns),
            "margin_distribution": distributions(chosen, "margin", 2 * columns),
            "first_learned": draw_over_epochs(
                found, "learned (%)", STYLES, columns, shares, NOTHING_CHANGED
            ),
            "detection": detection(table, listed, columns),
        }
        drawn = {name: (figure, CAPTIONS[name]) for name, figure in figures.items()}
        try:
            drawn["suspects"] = suspects(*chosen[next(iter(middle))], 4 * columns)
        except ValueError as error:
            found.problems.append(f"the report shows no images: {error}")
    return drawn


def share_learned(run: int, epochs: int, examples: pd.DataFrame) -> pd.DataFrame:
    """Return the shares (0..1) of both groups that were learned by each epoch, as records."""
    first = examples.groupby("changed")["first_learned"]
    shares = {
        name: np.searchsorted(np.sort(values), range(epochs), side="right") / len(values)
        for name, (_, values) in zip(STYLES, first, strict=True)
    }
    return pd.DataFrame({"run": run, "epoch": range(epochs), **shares})


def distributions(chosen: Chosen, kind: str, columns: int) -> Figure:
    """Draw histograms of `kind`, loss or margin, after some epochs and in the end, with AUROC.

    The panels of a run begin a row.
    """
    cells: list[Any] = []
    shown = [spread([*snapshots(run, kind), kind], MAX_EPOCHS) for *_, run in chosen.values()]
    columns = min(columns, max(map(len, shown)))
    for (label, _, examples), names in zip(chosen.values(), shown, strict=True):
        cells += [("" if i % columns else label, examples, name) for i, name in enumerate(names)]
        cells += [None] * (-len(names) % columns)
    figure, panels = lay_out(cells, columns, width=1.6, height=2.0)
    for panel, (label, examples, name) in zip(panels, filter(None, cells), strict=True):
        changed = examples["changed"].to_numpy()
        values, (_, _, epoch) = examples[name], name.partition("_epoch_")
        area = auroc(-values if kind in LOW_IF_WRONG else values, changed)
        when = f"epochs: {int(epoch) + 1}" if epoch else IN_THE_END[kind]
        panel.set_title(f"{when}\nAUROC {100 * area:.1f} %")
        if kind == "loss":
            values = np.log10(values.clip(SMALLEST_DRAWN_LOSS))
        view = values.quantile(0.001), values.quantile(0.999)
        for group, colour, of_group in zip(STYLES, COLOURS, (~changed, changed), strict=False):
            counts, edges = np.histogram(values[of_group], 40, view)
            panel.stairs(counts, edges, fill=True, color=colour, alpha=0.6, label=group)
        panel.set(xlabel="log10(loss)" if kind == "loss" else kind, yticks=[])
        panel.set_ylabel(label.replace(", corrupt", "\ncorrupt"))
    return legend(figure, "")


def detection(table: pd.DataFrame, listed: SeriesList, columns: int) -> Figure:
    """Draw the AUROC by corruption level, a panel per series, a line per score."""
    figure, panels = lay_out(listed, columns, "AUROC (%)")
    for panel, (name, rows) in zip(panels, listed, strict=True):
        levels = table.loc[rows]
        for score, colour, marker in zip(SCORES, COLOURS, MARKERS, strict=False):
            points = levels[levels["score"] == score]
            y, bars = 100 * points["auroc_mean"], 100 * points["auroc_sd"]
            label = score.replace("_", " ")
            panel.errorbar(points["corrupt"], y, bars, color=colour, marker=marker, label=label)
        panel.axhline(50, linestyle=":", **GUIDE)
        panel.set(title=name, xlabel="corrupt", xlim=(-0.03, 1.03))
    return legend(figure, "")


def suspects(label: str, folder: str, examples: pd.DataFrame, columns: int) -> tuple[Figure, str]:
    """Draw the images with the lowest margins; return the figure and its caption.

    Raises:
        ValueError: the data of the run are missing, or other ones.
    """
    worst = examples.nsmallest(MAX_IMAGES, "margin")
    images = randlabels.load(folder).train.images[worst.index.tolist()].clamp(0, 255).byte()
    figure, panels = lay_out(list(images), columns, width=0.8, height=1.1)
    for panel, image, row in zip(panels, images, worst.itertuples(), strict=True):
        panel.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
        true = f"true {row.true}" if row.changed else "unchanged"
        colour = COLOURS[1 if row.changed else 0]
        panel.set_title(f"label {row.label}\n{true}", loc="center", color=colour)
        panel.set_axis_off()
    return figure, (
        f"The images whose labels have the lowest margin in one run ({label}): the label, and "
        f"the true one. {worst['changed'].sum()} of these {len(worst)} labels were changed."
    )
