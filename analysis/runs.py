"""Run folders as a data frame, one row per run; folders that did not change are not read again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from randlabels.store import metrics
from randlabels.store.rundir import FINISHED, read_json, write_atomic

from .epochs import Epochs
from .folders import CODE, RESOURCES, VERSIONS, Row, read_rows

LEADING_KEYS = ["dataset", "model", "corruption", "corrupt"]
"""Config keys that every table shows."""

SEEDS = ["seed", "corruption.seed"]
"""Config keys over which tables take means."""

USED = [f"used_{name}" for name in RESOURCES + VERSIONS]
"""Columns that say what a run was computed with."""

NUMBERS = [f"{kind}_{key}" for kind in ("final", "best") for key in metrics.MEASURED]
NUMBERS += ["parameters", "seconds", "share_changed", "records"]
COLUMNS = ["signature", "fit_threshold", "classes", *NUMBERS, *USED, "git"]
"""What only some of the runs may have."""

PROGRESS = "planned foreign damaged failed interrupted running diverged done".split()
"""States, by how far a run has come."""


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
    out: folder of the tables.
    """

    runs: pd.DataFrame
    epochs: Epochs
    swept: list[str]
    keys: set[str]
    problems: list[str]
    out: Path


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
        key = (row["run_id"], row["keys"].get("dataset.sha256"))
        if key in chosen:
            problems.append(f"{row['folder']} holds the run of another folder; it counts once")
            if PROGRESS.index(chosen[key]["state"]) >= PROGRESS.index(row["state"]):
                continue
        chosen[key] = row
    if not chosen:
        raise FileNotFoundError(f"{root} holds no run; give a folder that a launch wrote to")
    keys = {key for row in chosen.values() for key in row["keys"]}
    swept = _swept([row["keys"] for row in chosen.values()])
    runs = _frame(list(chosen.values()), keys)
    runs = runs.sort_values([*swept, "run_id"], kind="stable", ignore_index=True)
    epochs = Epochs.update(out, runs, with_seed(swept), CODE)
    for index, problem in epochs.problems.items():
        problems.append(problem)
        if index in epochs.damaged:
            runs.loc[index, "state"] = "damaged"
    if fit_threshold is not None:
        runs["fit_threshold"] = fit_threshold
    runs["epochs_to_fit"] = _epochs_to_fit(runs, epochs)
    return Collection(runs, epochs, swept, keys, sorted(problems), out)


def with_seed(keys: list[str]) -> list[str]:
    """`keys` with the seed among them, for tables of single runs."""
    return keys if "seed" in keys else [*keys, "seed"]


def _swept(runs: list[dict[str, Any]]) -> list[str]:
    """The keys to tell these runs apart by, given the keys of each.

    Null is a value; that an option has no such key is not, since the option tells it apart.
    """
    first: dict[str, Any] = {}
    several = {
        key for keys in runs for key, value in keys.items() if first.setdefault(key, value) != value
    }
    return LEADING_KEYS + sorted(several - set(LEADING_KEYS))


def _frame(rows: list[Row], keys: set[str]) -> pd.DataFrame:
    """The rows as a table: a column for each of `keys`, and COLUMNS also where all are missing."""
    configs = [row["keys"] for row in rows]
    frame = pd.DataFrame([{**row, **row["keys"]} for row in rows]).drop(columns="keys")
    for key in keys:
        values = [config.get(key) for config in configs]
        types = set(map(type, values))
        if types == {int, type(None)}:
            frame[key] = pd.array(values, dtype="Int64")  # whole numbers beside null
        elif len(types - {type(None)} - {int, float}) and len(types) > 1:
            frame[key] = ["null" if value is None else str(value) for value in values]
    absent = [column for column in COLUMNS if column not in frame]
    return frame.reindex(columns=[*frame.columns, *absent]).astype(dict.fromkeys(NUMBERS, float))


def _epochs_to_fit(runs: pd.DataFrame, epochs: Epochs) -> pd.Series:
    """Epochs (1-based) until train_acc reached the threshold, for finished runs."""
    threshold = runs["fit_threshold"].fillna(np.inf).to_numpy(dtype=float)
    curves = epochs.read("train_acc")
    curves = curves[curves["train_acc"].to_numpy() >= threshold[curves["run"]]]
    first = curves.groupby("run")["epoch"].min() + 1
    finished = runs["state"].isin(FINISHED)
    return first.reindex(runs.index).where(finished).astype(float)
