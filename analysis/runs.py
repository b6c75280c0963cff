"""All runs under a folder: one table row per run, and the records of all runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from randlabels.store import metrics
from randlabels.store.rundir import FINISHED

from . import epochs, rows
from .rows import ORIGIN, Row

LEADING_KEYS = ["dataset", "model", "corruption", "corrupt"]  # config keys that every table shows
SEEDS = ["seed", "corruption.seed"]  # config keys over which tables take means
FIXED_FEATURES = ["raw", "gabor"]  # of a kernel, which are not drawn from `seed`
# States, by how far a run has come.
PROGRESS = "planned foreign damaged failed interrupted running diverged done".split()


@dataclass
class Collection:
    """All runs under a folder.

    runs: one row per run, planned runs included, sorted by the swept keys. Columns: run_id, state,
        folder, all config keys, `final_` and `best_` metrics, epochs_to_fit, fit_threshold,
        parameters, seconds, `ORIGIN`, share_changed (of the labels trained on), and `repeated`
        (bool): the same computation is in the table already, so it enters no mean.
    records: columns `run` (row in `runs`), `epoch` and all metrics, one row per record.
    swept: the leading keys, then every other key with several values, seeds last.
    keys: all config keys.
    problems: one sentence for each folder that could not be read in full.
    """

    runs: pd.DataFrame
    records: pa.Table
    swept: list[str]
    keys: set[str]
    problems: list[str]

    def metrics(self, *names: str) -> pd.DataFrame:
        """Return the columns `run`, `epoch` and `names` of the records."""
        return self.records.select(["run", "epoch", *names]).to_pandas()

    @property
    def counted(self) -> pd.Series:
        """Return which runs (N,) bool enter the means: those that are done and not a repetition."""
        return (self.runs["state"] == "done") & ~self.runs["repeated"]


def read(root: Path, fit_threshold: float | None = None) -> Collection:
    """Read all runs at or under `root`, in every state.

    A run that stands in several folders counts once, by the folder that has come furthest.

    fit_threshold: train accuracy (0..1) from which a run counts as fitted; None: the one that
        the run was last launched with.

    Raises:
        FileNotFoundError: no run was found.
    """
    listed, problems = rows.read(root)
    chosen: dict[tuple[str, Any], Row] = {}
    for row in sorted(listed, key=lambda row: -PROGRESS.index(row["state"])):
        key = (row["run_id"], row["keys"].get("dataset.sha256"))
        if chosen.setdefault(key, row) is not row:
            problems.append(f"{row['folder']} holds the run of another folder; it counts once")
    if not chosen:
        raise FileNotFoundError(f"{root} holds no run; give a folder that a launch wrote to")
    keys = {key for row in chosen.values() for key in row["keys"]}
    swept = _find_swept([row["keys"] for row in chosen.values()])
    runs = _build_frame(list(chosen.values()), keys)
    runs = runs.sort_values([*swept, "run_id"], kind="stable", ignore_index=True, key=rank)
    read_in_full = ~runs["state"].isin(["planned", "foreign", "damaged"])
    records, damage = epochs.read(runs.loc[read_in_full, "folder"], runs["records"])
    for i, (reason, unusable) in damage.items():
        problems.append(f"{runs['folder'][i]}/metrics.jsonl {reason}")
        if unusable:
            runs.loc[i, "state"] = "damaged"
    runs["repeated"] = _find_repeated(runs, swept)
    if fit_threshold is not None:
        runs["fit_threshold"] = fit_threshold
    runs["epochs_to_fit"] = epochs_to_fit(runs, records, runs["fit_threshold"])
    return Collection(runs, records, swept, keys, sorted(problems))


def _find_swept(runs: list[dict[str, Any]]) -> list[str]:
    """Return the keys that tell these runs apart, given the keys of each; seeds come last.

    Null is a value. A key that an option lacks is not: the name of the option tells it apart.
    """
    first: dict[str, Any] = {}
    several = {
        key for keys in runs for key, value in keys.items() if first.setdefault(key, value) != value
    }
    others = sorted(several - {*LEADING_KEYS, *SEEDS})
    return [*LEADING_KEYS, *others, *(key for key in reversed(SEEDS) if key in several)]


def _build_frame(listed: list[Row], keys: set[str]) -> pd.DataFrame:
    """Return the rows as a table with a column for each of `keys` and for every result, also for
    results that no run has yet."""
    configs = [row["keys"] for row in listed]
    frame = pd.DataFrame([{**row, **row["keys"]} for row in listed]).drop(columns="keys")
    for key in keys:
        values = [config.get(key) for config in configs]
        types = set(map(type, values))
        if types == {int, type(None)}:
            frame[key] = pd.array(values, dtype="Int64")  # integers, some of them null
        elif len(types - {type(None)} - {int, float}) and len(types) > 1:
            frame[key] = ["null" if value is None else str(value) for value in values]
    measured = [f"{kind}_{key}" for kind in ("final", "best") for key in metrics.MEASURED]
    added = {name for name in map(str, frame) if name.startswith(("final_", "best_"))}
    numbers = ["parameters", "seconds", "share_changed", "records"]
    numbers += [*measured, *sorted(added - set(measured))]
    results = ["fit_threshold", "classes", "command", *numbers, *ORIGIN]
    others = frame.columns.difference(results, sort=False)
    return frame.reindex(columns=[*others, *results]).astype(dict.fromkeys(numbers, float))


def rank(column: pd.Series) -> pd.Series:
    """Return a column (N,) as values that sort as a person would: `[16]`, `[64]`, `[256]`."""
    if pd.api.types.is_numeric_dtype(column):
        return column

    def split_numbers(text: Any) -> list[Any]:
        return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", str(text))]

    values = sorted(set(column.dropna()), key=split_numbers)
    return column.map({value: i for i, value in enumerate(values)})


def _find_repeated(runs: pd.DataFrame, swept: list[str]) -> pd.Series:
    """Return which runs (N,) bool differ from another only in a seed from which nothing is drawn.

    That is `corruption.seed` without corruption, and `seed` for a kernel without random features.
    The run that has come furthest counts.
    """
    identity = runs[swept].astype("str")
    if "corruption.seed" in swept:
        identity.loc[runs["corrupt"] == 0, "corruption.seed"] = ""
    if "seed" in swept and "model.features" in runs:
        identity.loc[runs["model.features"].isin(FIXED_FEATURES), "seed"] = ""
    furthest = (-runs["state"].map(PROGRESS.index)).sort_values(kind="stable").index
    return identity.loc[furthest].duplicated().reindex(runs.index)


def epochs_to_fit(runs: pd.DataFrame, records: pa.Table, threshold: pd.Series) -> pd.Series:
    """Return the epochs (1-based) until train_acc reached the threshold (N,), for finished runs."""
    needed = threshold.fillna(np.inf).to_numpy(dtype=float)
    run, accuracy = records["run"].to_numpy(), records["train_acc"].to_numpy()
    reached = accuracy >= needed[run]
    first = pd.Series(records["epoch"].to_numpy()[reached]).groupby(run[reached]).min() + 1
    return first.reindex(runs.index).where(runs["state"].isin(FINISHED)).astype(float)
