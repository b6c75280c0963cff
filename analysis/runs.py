"""Run folders as a data frame, one row per run; folders that did not change are not read again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from randlabels import metrics
from randlabels.rundir import (
    FINISHED,
    read_json,
    write_atomic,
)

from .epochs import Epochs
from .folders import CODE, RESOURCES, SOLUTION, VERSIONS, Row, read_rows

LEADING_KEYS = ["dataset", "model", "corruption", "corrupt"]
"""Config keys that every table shows."""

SEEDS = ["seed", "corruption.seed"]
"""Config keys over which tables take means."""


@dataclass
class Collection:
    """Everything found under a folder.

    runs: one row per run, planned ones included, sorted by the swept keys: run_id, state, all
        config keys, `final_` and `best_` metrics, epochs_to_fit, parameters, seconds, `used_`
        resources and versions, git, share_changed (of the labels trained on).
    epochs: the records of these runs.
    swept: the leading keys, then every other key that takes several values, seeds included.
    keys: all config keys.
    problems: one sentence for each folder that could not be read, or not in full.
    """

    runs: pd.DataFrame
    epochs: Epochs
    swept: list[str]
    keys: set[str]
    problems: list[str]


def read(root: Path, out: Path, fit_threshold: float | None = None) -> Collection:
    """Read all runs at or under `root`, whatever their state.

    A run that several folders hold counts once, by the one that has come furthest.

    out: folder of the tables; epochs.csv, epochs.parquet and the cache there are brought up to
        date.
    fit_threshold: train accuracy (0..1) from which a run counts as fitted; None: its config's.

    Raises:
        FileNotFoundError: there is no run.
    """
    (out / ".cache").mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".cache" / "lock"):  # two commands may collect at once
        return _read(root, out, fit_threshold)


def _read(root: Path, out: Path, fit_threshold: float | None) -> Collection:
    cache = out / ".cache" / "runs.json"
    cached = read_json(cache) or {}
    known = cached.get("rows", {}) if cached.get("code") == CODE else {}
    rows, problems = read_rows(root, known)
    write_atomic(cache, json.dumps({"code": CODE, "rows": known}))
    chosen: dict[tuple[str, Any], Row] = {}
    for row in rows:
        key = (row["run_id"], row.get("dataset.sha256"))
        if key in chosen:
            problems.append(f"{row['folder']} holds the run of another folder; it counts once")
            if _PROGRESS.index(chosen[key]["state"]) >= _PROGRESS.index(row["state"]):
                continue
        chosen[key] = row
    if not chosen:
        raise FileNotFoundError(f"{root} holds no run; give a folder that a launch wrote to")
    swept = _swept(list(chosen.values()))
    runs = _frame(list(chosen.values())).sort_values(
        [*swept, "run_id"], kind="stable", ignore_index=True
    )
    epochs = Epochs.update(out, runs, with_seed(swept), CODE)
    for index, problem in epochs.problems.items():
        problems.append(problem)
        if index in epochs.damaged:
            runs.loc[index, "state"] = "damaged"
    if fit_threshold is not None:
        runs["fit_threshold"] = fit_threshold
    runs["epochs_to_fit"] = _epochs_to_fit(runs, epochs)
    keys = {key for row in chosen.values() for key in row} - _NOT_KEYS
    return Collection(runs, epochs, swept, keys, sorted(problems))


def with_seed(keys: list[str]) -> list[str]:
    """`keys` with the seed among them, for tables of single runs."""
    return keys if "seed" in keys else [*keys, "seed"]


_PROGRESS = "planned foreign damaged failed interrupted running diverged done".split()

_NUMBERS = [
    *(f"final_{key}" for key in metrics.MEASURED),
    *(f"best_{key}" for key in metrics.MEASURED),
    "epochs_to_fit",
    "parameters",
    "seconds",
]
_OTHERS = ["signature", "fit_threshold", "classes", "share_changed", "records"]
USED = [f"used_{name}" for name in RESOURCES + VERSIONS]
_COLUMNS = ["run_id", "state", *_NUMBERS, *USED, "git"]
_NOT_KEYS = {
    *_COLUMNS,
    *SOLUTION,
    *_OTHERS,
    "folder",
    "host",
}


def _swept(rows: list[Row]) -> list[str]:
    """Null is a value; that an option has no such key is not, since the option tells it apart."""
    first: dict[str, Any] = {}
    several = {
        key for row in rows for key, value in row.items() if first.setdefault(key, value) != value
    }
    return LEADING_KEYS + sorted(several - _NOT_KEYS - set(LEADING_KEYS))


def _frame(rows: list[Row]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    for column in set(frame.columns) - _NOT_KEYS:
        values = [row.get(column) for row in rows]
        types = {type(value) for value in values}
        if types == {int, type(None)}:
            frame[column] = pd.array(values, dtype="Int64")  # whole numbers beside null
        elif len(types - {type(None)} - {int, float}) and len(types) > 1:
            frame[column] = ["null" if value is None else str(value) for value in values]
    absent = [column for column in [*_COLUMNS, *_OTHERS] if column not in frame]
    frame = frame.reindex(columns=[*frame.columns, *absent])
    numbers = [*_NUMBERS, "share_changed", "records"]
    return frame.astype(dict.fromkeys(numbers, float))  # also where all are missing


def _epochs_to_fit(runs: pd.DataFrame, epochs: Epochs) -> pd.Series:
    """Epochs (1-based) until train_acc reached the threshold, for finished runs."""
    threshold = runs["fit_threshold"].fillna(np.inf).to_numpy(dtype=float)
    curves = epochs.read("train_acc")
    curves = curves[curves["train_acc"].to_numpy() >= threshold[curves["run"]]]
    first = curves.groupby("run")["epoch"].min() + 1
    finished = runs["state"].isin(FINISHED)
    return first.reindex(runs.index).where(finished).astype(float)
