"""The paper's tables from the runs that are done: means and deviations over seeds."""

from typing import Any

import numpy as np
import pandas as pd

from .rows import ORIGIN, SOLUTION
from .runs import LEADING_KEYS, SEEDS, Collection

# Metrics that are computed from logged ones. The first three are the shares of the changed training
# labels that are predicted as the label trained on, as the true one, or as another class. They sum
# to 1 (Liu et al. 2020, ELR, Figure 1).
DERIVED = ("memorised", "true", "neither", "generalization_gap")
FRACTIONS = ("test_error", "auroc", "missed")  # means that a reader gets in %
KEPT_DECIMALS = 12  # of a share, so that 0 does not become -1e-17


def runs(found: Collection) -> pd.DataFrame:
    """Return one row per run, finished or not: state, swept keys, metrics, cost, origin."""
    columns = ["run_id", "state", *found.swept]
    columns += [name for name in map(str, found.runs) if name.startswith(("final_", "best_"))]
    columns += [key for key in SOLUTION if key in found.runs]
    columns += ["epochs_to_fit", "parameters", "seconds", "share_changed", *ORIGIN, "command"]
    table = found.runs.reindex(columns=columns)
    return table.astype({"epochs_to_fit": "Int64", "parameters": "Int64"})


def corruption_vs_epochs(found: Collection) -> pd.DataFrame:
    """Return the train accuracy (0..1), mean over the seeds, one column per epoch (0-based)."""
    mean, _ = over_seeds(found, found.metrics("train_acc"))["train_acc"]
    names = [str(epoch) for epoch in range(mean.shape[1])]
    return pd.concat([configurations(found)[0], pd.DataFrame(mean, columns=names)], axis=1)


def time_to_fit(found: Collection) -> pd.DataFrame:
    """Return the epochs (1-based) until the train accuracy reaches the threshold, over the seeds.

    `n_fitted` of the `n_done` runs reached it; mean and sample deviation are theirs. `relative`
    is the mean over that of the true-label runs (Fig. 1b): those of equal keys at corrupt = 0,
    of any kind of corruption. `relative_sd` combines the deviations of both; it is missing
    where either has one run, and for the true-label runs themselves. `eval_every` is the resolution
    of `epochs_to_fit` in epochs, `fit_threshold` the train accuracy that counts as fitted; each is
    missing where the runs of a row differ.
    """
    table, configuration = configurations(found)
    groups = found.runs["epochs_to_fit"].where(found.counted).groupby(configuration)
    mean, deviation = groups.mean(), groups.std()
    n_fitted = groups.count().reindex(table.index, fill_value=0)
    table = table.assign(epochs_to_fit_mean=mean, epochs_to_fit_sd=deviation, n_fitted=n_fitted)
    base, base_deviation, _ = at_true_labels(found, table, found.runs["epochs_to_fit"])
    table["relative"] = mean / base
    table["relative_sd"] = mean / base * np.hypot(deviation / mean, base_deviation / base)
    table.loc[table["corrupt"] == 0, "relative_sd"] = np.nan
    for name in [key for key in ("eval_every", "fit_threshold") if key not in table]:
        values = found.runs[name].groupby(configuration)
        table[name] = values.first().where(values.nunique() == 1)
    return table


def at_true_labels(
    found: Collection, table: pd.DataFrame, values: pd.Series
) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Return mean, deviation and number of `values` (N,) of the true-label runs by row of `table`.

    At corrupt=0 the kind has no effect, so runs of several kinds with the same seed count as one.
    """
    keys = [key for key in found.swept if key != "corrupt" and not key.startswith("corruption")]
    clean = found.runs[found.counted & (found.runs["corrupt"] == 0)]
    clean = clean.drop_duplicates([*keys, "seed"]).assign(value=values)
    keys = [key for key in keys if key not in SEEDS]
    means = clean.groupby(keys, dropna=False)["value"].agg(["mean", "std", "count"]).reset_index()
    base = table[keys].merge(means, on=keys, how="left")
    return base["mean"], base["std"], base["count"]


def test_error(found: Collection) -> pd.DataFrame:
    """Return the final error (0..1) on the true test labels, mean and deviation."""
    table, configuration = configurations(found)
    groups = (1 - found.runs["final_test_acc"]).where(found.counted).groupby(configuration)
    return table.assign(test_error_mean=groups.mean(), test_error_sd=groups.std())


def memorisation(found: Collection) -> pd.DataFrame:
    """Return what became of the changed labels, a row per configuration and epoch (0-based).

    Means over the seeds of `DERIVED`, fractions; a share is missing where no label was changed. A
    configuration without a finished run has one row without epoch.
    """
    measured = over_seeds(found, derive(found))
    row, epoch = np.nonzero(~np.isnan(measured["generalization_gap"][0]))
    columns = {metric: mean[row, epoch] for metric, (mean, _) in measured.items()}
    means = pd.DataFrame({"epoch": pd.array(epoch, dtype="Int64"), **columns}, index=row)
    return configurations(found)[0].join(means).reset_index(drop=True)


def derive(found: Collection) -> pd.DataFrame:
    """Return the columns `run` (row in the table of runs), `epoch` and `DERIVED` of all records.

    Of the images whose label was not changed, those predicted as their label are predicted as the
    true class. With s the share of changed labels, train_acc_true is therefore
    (1 - s)·train_acc_clean + s·true. The shares are NaN where no label was changed, also under a
    corruption of pixels, which is recognised by its missing noisy test labels.
    """
    logged = ["train_acc", "test_acc", "train_acc_true", "train_acc_clean", "train_acc_corrupted"]
    records, runs = found.metrics(*logged), found.runs
    relabelled = runs["final_test_acc_noisy"].notna() & (runs["share_changed"] > 0)
    changed = runs["share_changed"].where(relabelled).to_numpy()[records["run"]]
    clean = records["train_acc_clean"].where(changed < 1, 0.0)  # null, as it has no images
    true = (records["train_acc_true"] - (1 - changed) * clean) / changed
    true = true.round(KEPT_DECIMALS) + 0.0
    memorised = records["train_acc_corrupted"].where(changed > 0)
    return records[["run", "epoch"]].assign(
        memorised=memorised,
        true=true,
        neither=(1 - memorised - true).round(KEPT_DECIMALS) + 0.0,
        generalization_gap=records["train_acc"] - records["test_acc"],
    )


# By file name; epochs.csv is `Collection.epochs`.
TABLES = {
    build.__name__: build
    for build in (runs, corruption_vs_epochs, time_to_fit, test_error, memorisation)
}


def configurations(found: Collection) -> tuple[pd.DataFrame, pd.Series]:
    """Return the configurations apart from the seeds, and each run's row (N,) among them.

    `n` counts the distinct runs of a configuration, planned ones included; `n_done` those that
    enter the means. `share_changed` is the mean share of training labels (or images) changed.
    """
    keys = [key for key in found.swept if key not in SEEDS]
    columns = {"n": ~found.runs["repeated"], "n_done": found.counted}
    columns["share_changed"] = found.runs["share_changed"].where(found.counted)
    groups = found.runs[keys].assign(**columns).groupby(keys, dropna=False, sort=False)
    table = groups.agg({"n": "sum", "n_done": "sum", "share_changed": "mean"})
    return table.reset_index(), groups.ngroup().rename("configuration")


def over_seeds(
    found: Collection, records: pd.DataFrame
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return mean and sample deviation of each metric by configuration and epoch.

    records: columns `run` (row in the table of runs), `epoch`, then the metrics.

    By metric, two arrays (configurations, epochs) float64, NaN where nothing was measured (or one
    run, for the deviation).
    """
    table, configuration = configurations(found)
    run, epoch = records["run"].to_numpy(), records["epoch"].to_numpy()
    counted = found.counted.to_numpy()[run]
    shape = (len(table), int(epoch[counted].max()) + 1 if counted.any() else 0)
    cells, length = (configuration.to_numpy() * shape[1])[run] + epoch, shape[0] * shape[1]
    measured = {}
    for metric in records.columns[2:]:
        known = counted & ~np.isnan(values := records[metric].to_numpy())
        cell, value = cells[known], values[known]
        n = np.bincount(cell, minlength=length)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(cell, value, length) / n
            value -= mean[cell]
            value *= value
            deviation = np.sqrt(np.bincount(cell, value, length) / np.where(n > 1, n - 1, 0))
        measured[metric] = mean.reshape(shape), deviation.reshape(shape)
    return measured


def shorten_runs(table: pd.DataFrame, swept: list[str]) -> pd.DataFrame:
    """Return the table of runs with a reader's columns: accuracies in %, epochs to fit, seconds."""
    results = {
        "train acc (%)": _texts(100 * table["final_train_acc"], spec=".2f"),
        "test acc (%)": _texts(100 * table["final_test_acc"], spec=".2f"),
        "epochs to fit": table["epochs_to_fit"],
        "seconds": table["seconds"],
    }
    return table[["run_id", "state", *swept]].assign(**results)


def for_papers(table: pd.DataFrame, epochs_shown: int = 8) -> pd.DataFrame:
    """Return a table as texts to read.

    Mean ± deviation in one column, accuracies, errors and shares in %, and at most `epochs_shown`
    epochs, evenly spaced, with the first and the last.
    """
    epochs = [c for c in table.columns if c.isdecimal()]
    shown = spread(epochs, epochs_shown)
    text: dict[str, pd.Series] = {}
    for name in table.columns.drop([epoch for epoch in epochs if epoch not in shown]):
        base = name.removesuffix("_mean")
        title = base.replace("_", " ")
        if name in shown:
            text[name] = _texts(100 * table[name])
        elif base in FRACTIONS or name in (*DERIVED, "share_changed"):
            text[f"{title} (%)"] = _texts(100 * table[name], 100 * table.get(f"{base}_sd", np.nan))
        elif name.endswith("_mean"):
            text[title] = _texts(table[name], table[f"{base}_sd"])
        elif name == "relative":
            text[name] = _texts(table[name], table["relative_sd"], ".2f")
        elif not name.endswith("_sd"):
            text[name] = table[name].map(format_plain)
    return pd.DataFrame(text, index=table.index).astype("str")


def spread(values: list[Any], number: int) -> list[Any]:
    """Return at most `number` of `values`, evenly spaced, with the first and the last."""
    steps = min(number, len(values))
    return [values[round(i * (len(values) - 1) / max(1, steps - 1))] for i in range(steps)]


def _texts(mean: pd.Series, deviation: pd.Series | float = np.nan, spec: str = ".1f") -> pd.Series:
    deviations = pd.Series(deviation, mean.index).map(f" ± {{:{spec}}}".format)
    texts = mean.map(f"{{:{spec}}}".format) + deviations.str.replace(" ± nan", "")
    return texts.where(mean.notna(), "-")


def format_plain(value: Any) -> str:
    """Return a cell as text: `-` where missing, floats without trailing zeros."""
    return "-" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)


def override(value: Any) -> str:
    """Return a value of a config key as the command line takes it."""
    text = "null" if pd.isna(value) else str(value).replace(" ", "")
    return text.lower() if text in ("True", "False") else text


def label(key: str, value: Any) -> str:
    """Return a value of a config key as a label, with the key unless the value says what it is."""
    text = "null" if pd.isna(value) else format_plain(value)
    if key == "corrupt":
        return f"corrupt {text}"
    return text if key in LEADING_KEYS else f"{key}={text}"
