"""The paper's tables from the runs that are done: means and deviations over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from randlabels.metrics import KEYS, MEASURED

from .runs import RESOURCES, SEEDS, Collection


def runs(found: Collection) -> pd.DataFrame:
    """One row per run, finished or not: state, swept keys, metrics, cost, origin."""
    results = [f"{kind}_{key}" for kind in ("final", "best") for key in MEASURED]
    used = [f"used_{name}" for name in RESOURCES]
    columns = ["run_id", "state", *_with_seed(found.swept), *results]
    columns += ["epochs_to_fit", "parameters", "seconds", *used, "git"]
    return _whole_numbers(_sorted(found.runs[columns], found.swept))


def epochs(found: Collection) -> pd.DataFrame:
    """One row per run and epoch: the swept keys and the metrics."""
    keys = _with_seed(found.swept)
    frame = found.epochs.merge(found.runs[["run_id", *keys]], on="run_id")
    return _sorted(frame[["run_id", *keys, *KEYS]], found.swept, "epoch")


def corruption_vs_epochs(found: Collection) -> pd.DataFrame:
    """Train accuracy (0..1), mean over the seeds, one column per epoch (0-based)."""
    keys, counts = _configurations(found)
    frame = _done(found)[["run_id", *keys]].merge(found.epochs, on="run_id")
    means = frame.groupby([*keys, "epoch"], dropna=False)["train_acc"].mean()
    curves = means.unstack("epoch")
    curves.columns = [str(int(epoch)) for epoch in curves.columns]
    return counts.merge(curves.reset_index(), on=keys, how="left")


def time_to_fit(found: Collection) -> pd.DataFrame:
    """Epochs (1-based) until the train accuracy reaches the threshold, over the seeds.

    `n_fitted` of the `n_done` runs reached it, and the mean and sample deviation are theirs.
    `relative` is the mean over that of the same configuration at corrupt = 0 (Fig. 1b).
    """
    keys, table = _configurations(found)
    statistics = _statistics(found, keys, "epochs_to_fit", ["mean", "std", "count"])
    statistics.columns = [*keys, "epochs_to_fit_mean", "epochs_to_fit_sd", "n_fitted"]
    table = table.merge(statistics, on=keys, how="left")
    table["n_fitted"] = table["n_fitted"].fillna(0).astype(int)
    others = [key for key in keys if key != "corrupt"]
    clean = table.loc[table["corrupt"] == 0, [*others, "epochs_to_fit_mean"]]
    base = table.merge(clean, on=others, how="left", suffixes=("", "_clean"))
    table["relative"] = table["epochs_to_fit_mean"] / base["epochs_to_fit_mean_clean"]
    return table


def test_error(found: Collection) -> pd.DataFrame:
    """Final error (0..1) on the true test labels, mean and sample deviation (Fig. 1c)."""
    keys, table = _configurations(found)
    statistics = _statistics(found, keys, "final_test_acc", ["mean", "std"])
    statistics.columns = [*keys, "test_error_mean", "test_error_sd"]
    statistics["test_error_mean"] = 1 - statistics["test_error_mean"]
    return table.merge(statistics, on=keys, how="left")


TABLES = {
    "runs": runs,
    "epochs": epochs,
    "corruption_vs_epochs": corruption_vs_epochs,
    "time_to_fit": time_to_fit,
    "test_error": test_error,
}
"""File names without their endings."""


def _configurations(found: Collection) -> tuple[list[str], pd.DataFrame]:
    """The key columns without the seeds, and one row for each of their combinations.

    `n` counts the runs of a configuration, planned ones included; `n_done` those that a mean
    is taken over.
    """
    keys = [key for key in found.swept if key not in SEEDS]
    frame = found.runs.assign(done=found.runs["state"] == "done")
    counts = frame.groupby(keys, dropna=False, sort=True)["done"].agg(n="size", n_done="sum")
    return keys, counts.reset_index()


def _statistics(
    found: Collection, keys: list[str], column: str, functions: Sequence[str]
) -> pd.DataFrame:
    return _done(found).groupby(keys, dropna=False)[column].agg(list(functions)).reset_index()


def _done(found: Collection) -> pd.DataFrame:
    return found.runs[found.runs["state"] == "done"]


def _with_seed(keys: list[str]) -> list[str]:
    return keys if "seed" in keys else [*keys, "seed"]


def _sorted(frame: pd.DataFrame, keys: list[str], *more: str) -> pd.DataFrame:
    return frame.sort_values([*keys, "run_id", *more], kind="stable").reset_index(drop=True)


def _whole_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Counts as integers, also where some are missing."""
    return frame.astype({"epochs_to_fit": "Int64", "parameters": "Int64"})
