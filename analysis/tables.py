"""The paper's tables from the runs that are done: means and deviations over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from randlabels.store.metrics import MEASURED

from .folders import SOLUTION
from .memorisation import DERIVED, derive
from .runs import SEEDS, USED, Collection, with_seed


def runs(found: Collection) -> pd.DataFrame:
    """One row per run, finished or not: state, swept keys, metrics, cost, origin."""
    results = [f"{kind}_{key}" for kind in ("final", "best") for key in MEASURED]
    columns = ["run_id", "state", *with_seed(found.swept), *results]
    columns += [key for key in SOLUTION if key in found.runs]
    columns += ["epochs_to_fit", "parameters", "seconds", *USED, "git"]
    table = found.runs.reindex(columns=columns)
    return table.astype({"epochs_to_fit": "Int64", "parameters": "Int64"})


def corruption_vs_epochs(found: Collection) -> pd.DataFrame:
    """Train accuracy (0..1), mean over the seeds, one column per epoch (0-based)."""
    table, configuration = configurations(found)
    mean, _ = curves(found, "train_acc", configuration, len(table))
    names = [str(epoch) for epoch in range(mean.shape[1])]
    return pd.concat([table, pd.DataFrame(mean, columns=names)], axis=1)


def time_to_fit(found: Collection) -> pd.DataFrame:
    """Epochs (1-based) until the train accuracy reaches the threshold, over the seeds.

    `n_fitted` of the `n_done` runs reached it, and the mean and sample deviation are theirs.
    `relative` is the mean over that of the same configuration at corrupt = 0 (Fig. 1b).
    """
    table, configuration = configurations(found)
    groups = _done(found, "epochs_to_fit").groupby(configuration)
    table["epochs_to_fit_mean"] = groups.mean().reindex(table.index)
    table["epochs_to_fit_sd"] = groups.std().reindex(table.index)
    table["n_fitted"] = groups.count().reindex(table.index, fill_value=0)
    others = [key for key in found.swept if key not in (*SEEDS, "corrupt")]
    clean = table.loc[table["corrupt"] == 0, [*others, "epochs_to_fit_mean"]]
    base = table.merge(clean, on=others, how="left", suffixes=("", "_clean"))
    table["relative"] = table["epochs_to_fit_mean"] / base["epochs_to_fit_mean_clean"]
    return table


def test_error(found: Collection) -> pd.DataFrame:
    """Final error (0..1) on the true test labels, mean and sample deviation (Fig. 1c)."""
    table, configuration = configurations(found)
    groups = (1 - _done(found, "final_test_acc")).groupby(configuration)
    table["test_error_mean"] = groups.mean().reindex(table.index)
    table["test_error_sd"] = groups.std().reindex(table.index)
    return table


def memorisation(found: Collection) -> pd.DataFrame:
    """One row per configuration and epoch (0-based): what became of the changed labels.

    Means over the seeds of the metrics of `analysis.memorisation`, fractions; a share is empty
    where no label was changed. A configuration of which no run is done has one row without epoch.
    """
    table, configuration = configurations(found)
    measured = over_seeds(found, derive(found), configuration, len(table))
    row, epoch = np.nonzero(~np.isnan(measured["generalization_gap"][0]))
    columns = {metric: mean[row, epoch] for metric, (mean, _) in measured.items()}
    means = pd.DataFrame({"epoch": pd.array(epoch, dtype="Int64"), **columns}, index=row)
    return table.join(means).reset_index(drop=True)


TABLES = {
    "runs": runs,
    "corruption_vs_epochs": corruption_vs_epochs,
    "time_to_fit": time_to_fit,
    "test_error": test_error,
    "memorisation": memorisation,
}
"""File names without their endings; epochs.csv is `analysis.epochs`."""


def configurations(found: Collection) -> tuple[pd.DataFrame, pd.Series]:
    """The configurations apart from the seeds, sorted, and the position of each run's among them.

    `n` counts the runs of a configuration, planned ones included; `n_done` those that a mean
    is taken over.
    """
    keys = [key for key in found.swept if key not in SEEDS]
    done = (found.runs["state"] == "done").rename("done")
    groups = found.runs[keys].assign(done=done).groupby(keys, dropna=False, sort=True)
    table = groups["done"].agg(n="size", n_done="sum").reset_index()
    return table, groups.ngroup().rename("configuration")


def curves(
    found: Collection, metric: str, configuration: pd.Series, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """`over_seeds` of a metric that is logged."""
    return over_seeds(found, found.epochs.read(metric), configuration, size)[metric]


def over_seeds(
    found: Collection, records: pd.DataFrame, configuration: pd.Series, size: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and sample deviation of each metric by configuration and epoch, over the runs done.

    records: columns `run` (position in the table of runs), `epoch`, then the metrics.

    By metric, two arrays (size, epochs) float64, NaN where nothing was measured (or one run, for
    the deviation).
    """
    run, epoch = records["run"].to_numpy(), records["epoch"].to_numpy()
    done = (found.runs["state"] == "done").to_numpy()[run]
    shape = (size, int(epoch[done].max()) + 1 if done.any() else 0)
    cells, length = (configuration.to_numpy() * shape[1])[run] + epoch, shape[0] * shape[1]
    measured = {}
    for metric in records.columns[2:]:
        known = done & ~np.isnan(values := records[metric].to_numpy())
        cell, value = cells[known], values[known]
        n = np.bincount(cell, minlength=length)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(cell, value, length) / n
            value -= mean[cell]
            value *= value
            deviation = np.sqrt(np.bincount(cell, value, length) / np.where(n > 1, n - 1, 0))
        measured[metric] = mean.reshape(shape), deviation.reshape(shape)
    return measured


def _done(found: Collection, column: str) -> pd.Series:
    return found.runs[column].where(found.runs["state"] == "done")


def runs_in_short(table: pd.DataFrame, swept: list[str]) -> pd.DataFrame:
    """The table of runs with what is read first: accuracies in %, epochs to fit, seconds."""
    short = table[["run_id", "state", *with_seed(swept)]].copy()
    for name in ("train_acc", "test_acc"):
        values = (100 * table[f"final_{name}"]).round(2)
        short[f"{name.replace('_', ' ')} (%)"] = values
    return short.assign(**{"epochs to fit": table["epochs_to_fit"], "seconds": table["seconds"]})


def for_papers(table: pd.DataFrame, epochs_shown: int = 8) -> pd.DataFrame:
    """A table as texts to read: mean ± deviation in one column, accuracies and errors in %, at
    most `epochs_shown` epochs, evenly spaced, the first and last among them."""
    epochs = [c for c in table.columns if c.isdecimal()]
    shown = spread(epochs, epochs_shown)
    text: dict[str, pd.Series] = {}
    for name in table.columns:
        if name in shown:
            text[name] = _texts(100 * table[name], None)
        elif name.endswith("_mean"):
            scale, unit = (100, " (%)") if name.startswith("test_error") else (1, "")
            base = name.removesuffix("_mean")
            deviation = scale * table[f"{base}_sd"]
            text[base.replace("_", " ") + unit] = _texts(scale * table[name], deviation)
        elif name in DERIVED:
            text[f"{name.replace('_', ' ')} (%)"] = _texts(100 * table[name], None)
        elif name == "relative":
            text[name] = _texts(table[name], None, ".2f")
        elif name not in epochs and not name.endswith("_sd"):
            text[name] = table[name].map(plain)
    return pd.DataFrame(text, index=table.index).astype("str")


def spread(values: list[Any], number: int) -> list[Any]:
    """At most `number` of `values`, evenly spaced, the first and the last among them."""
    steps = min(number, len(values))
    return [values[round(i * (len(values) - 1) / max(1, steps - 1))] for i in range(steps)]


def _texts(mean: pd.Series, deviation: pd.Series | None, spec: str = ".1f") -> pd.Series:
    spread = [np.nan] * len(mean) if deviation is None else deviation
    return pd.Series(
        [
            "-" if pd.isna(m) else format(m, spec) + (f" ± {s:{spec}}" if pd.notna(s) else "")
            for m, s in zip(mean, spread, strict=True)
        ],
        index=mean.index,
    )


def plain(value: object) -> str:
    """A cell as text: `-` where missing, floats without trailing zeros."""
    return "-" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)  # type: ignore[call-overload]
