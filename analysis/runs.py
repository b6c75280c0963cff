"""Run folders as a data frame, one row per run; folders that did not change are not read again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from randlabels import metrics
from randlabels.rundir import (
    FINISHED,
    NOT_HASHED,
    SCHEMA,
    RunDir,
    device_kind,
    read_json,
    read_plan,
    write_atomic,
)

from .epochs import Epochs

LEADING_KEYS = ["dataset", "model", "corruption", "corrupt"]
"""Config keys that every table shows."""

SEEDS = ["seed", "corruption.seed"]
"""Config keys over which tables take means."""

RESOURCES = ["device", "precision", "threads"]
"""What `auto` was decided to be, from environment.json; columns `used_<name>` in runs.csv."""

VERSIONS = ["torch", "numpy"]
"""Packages whose version can change the numbers; columns `used_<name>` in runs.csv."""

Row = dict[str, Any]
"""One run: its folder, state, config keys and results by column."""


@dataclass
class Collection:
    """Everything found under a folder.

    runs: one row per run, planned ones included, sorted by the swept keys: run_id, state, all
        config keys, `final_` and `best_` metrics, epochs_to_fit, parameters, seconds, `used_`
        resources and versions, git.
    epochs: the records of these runs.
    swept: the leading keys, then every other key that takes several values, seeds included.
    problems: one sentence for each folder that could not be read, or not in full.
    """

    runs: pd.DataFrame
    epochs: Epochs
    swept: list[str]
    problems: list[str] = field(default_factory=list)


def read(root: Path, out: Path, fit_threshold: float | None = None) -> Collection:
    """Read all runs at or under `root`, whatever their state.

    A run that several folders hold counts once, by the one that has come furthest.

    out: folder of the tables; epochs.csv, epochs.parquet and the cache there are brought up to
        date.
    fit_threshold: train accuracy (0..1) from which a run counts as fitted; None: its config's.

    Raises:
        FileNotFoundError: there is no run.
    """
    cache = out / ".cache" / "runs.json"
    rows, problems = read_rows(root, known := (read_json(cache) or {}).get("rows", {}))
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(cache, json.dumps({"rows": known}))
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
    epochs = Epochs.update(out, runs, with_seed(swept))
    for index, problem in epochs.problems.items():
        problems.append(problem)
        if index in epochs.damaged:
            runs.loc[index, "state"] = "damaged"
    runs["epochs_to_fit"] = _epochs_to_fit(runs, epochs, fit_threshold)
    return Collection(runs, epochs, swept, sorted(problems))


def with_seed(keys: list[str]) -> list[str]:
    """`keys` with the seed among them, for tables of single runs."""
    return keys if "seed" in keys else [*keys, "seed"]


_PROGRESS = ["planned", "damaged", "failed", "interrupted", "running", "diverged", "done"]

_NUMBERS = [
    *(f"final_{key}" for key in metrics.MEASURED),
    *(f"best_{key}" for key in metrics.MEASURED),
    "epochs_to_fit",
    "parameters",
    "seconds",
]
USED = [f"used_{name}" for name in RESOURCES + VERSIONS]
_COLUMNS = ["run_id", "state", *_NUMBERS, *USED, "git"]
_NOT_KEYS = {*_COLUMNS, "folder", "signature", "fit_threshold", "host"}


# From folders to rows


def read_rows(root: Path, known: dict[str, Row]) -> tuple[list[Row], list[str]]:
    """The row of each run folder at or under `root` and of each planned run without one, and a
    sentence for each folder that is passed over.

    `known` are rows of an earlier call by their place under `root`; it is brought up to date, and
    what is in it is not read again where the folder's files are as they were.
    """
    rows: list[Row] = []
    problems: list[str] = []
    kept: dict[str, Row] = {}
    plans: list[Path] = []
    folders = sorted(_scan(str(root), plans))
    planned = dict(_planned(sorted(plans), problems))
    for folder, signature in folders:
        place = folder[len(str(root)) :]
        row = known.get(place)
        if row is None or row["signature"] != signature:
            try:
                row = {**_read_run(RunDir(Path(folder))), "signature": signature}
            except _Foreign as error:
                problems.append(f"{folder} is passed over: {error}")
                continue
            except _DAMAGE as error:
                problems.append(f"{folder} is damaged and passed over: {_first_line(error)}")
                planned.get(folder, {})["state"] = "damaged"
                continue
        kept[place] = row
        planned.pop(folder, None)
        if row["state"] not in FINISHED:
            row["state"] = RunDir(Path(folder)).state()
        rows.append({**row, "folder": folder})
    known.clear()
    known.update(kept)
    return [*rows, *planned.values()], problems


_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError)
"""What reading a file of unexpected content may raise."""


class _Foreign(ValueError):
    """A folder that this version did not write."""


_FILES = ["config.yaml", "metrics.jsonl", "done.json", "error.json", "environment.json"]


def _scan(folder: str, plans: list[Path]) -> Iterator[tuple[str, list[Any]]]:
    """Each run folder, and size and time of each of its files, without reading any; the plans
    that are found on the way are added to `plans`."""
    with os.scandir(folder) as found:
        entries = {entry.name: entry for entry in found}
    if "config.yaml" in entries:
        signature: list[Any] = []
        for name in _FILES:
            status = entries[name].stat() if name in entries else None
            signature.append([status.st_mtime_ns, status.st_size] if status else None)
        yield folder, signature
        return
    if "plan.jsonl" in entries:
        plans.append(Path(folder) / "plan.jsonl")
    for name, entry in entries.items():
        if entry.is_dir() and not name.startswith("."):
            yield from _scan(entry.path, plans)


def _read_run(run: RunDir) -> Row:
    """The row of a run, from all its files but metrics.jsonl."""
    config = yaml.load(run.config.read_bytes(), Loader=yaml.CSafeLoader)
    if not isinstance(config, dict) or "model" not in config or "corrupt" not in config:
        raise _Foreign("config.yaml is none of this program")
    environment = read_json(run.environment) or {}
    if (schema := environment.get("schema", SCHEMA)) != SCHEMA:
        raise _Foreign(f"it was written as schema {schema}, and this program reads {SCHEMA}")
    versions = environment.get("versions") or {}
    row = {
        "run_id": run.run_id,
        "state": run.state(),
        "fit_threshold": config["fit_threshold"],
        "host": environment.get("host"),
        **_flat(config),
        **{f"used_{name}": environment.get(name) for name in RESOURCES},
        **{f"used_{name}": versions.get(name) for name in VERSIONS},
        "git": _commit(environment.get("git")),
    }
    row["used_device"] = device_kind(environment.get("device", ""))
    if row["dataset"] == "image_folder":  # the same config reads whatever the folder holds
        row["dataset.sha256"] = environment.get("data_sha256", "")[:12]
    if (result := run.result()) is not None:
        for kind in ("final", "best"):
            row |= {f"{kind}_{key}": result[kind][key] for key in metrics.MEASURED}
        row |= {key: result[key] for key in ("parameters", "seconds")}
    return row


def _flat(config: Mapping[str, Any]) -> Row:
    """Dotted keys that can change the numbers; a group's name stands under the group's own."""
    flat: Row = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat[key] = value["name"]
            flat.update({f"{key}.{k}": v for k, v in value.items() if k != "name"})
        else:
            flat[key] = value
    flat["device"] = device_kind(flat["device"])
    return {
        key: str(value) if isinstance(value, list) else value
        for key, value in flat.items()
        if key not in NOT_HASHED
    }


def _planned(plans: list[Path], problems: list[str]) -> Iterator[tuple[str, Row]]:
    """Folder and row of each run in `plans`."""
    for plan in plans:
        for run_id, entry in read_plan(plan.parent).items():
            folder = str(plan.parent / run_id)
            try:
                keys = _flat(entry["config"])
            except (KeyError, TypeError, AttributeError) as error:
                problems.append(f"{plan}, run {run_id} is passed over: no whole config ({error})")
            else:
                yield folder, {"run_id": run_id, "state": "planned", "folder": folder, **keys}


def _commit(git: Mapping[str, Any] | None) -> str | None:
    """`<commit>`, with `+` where the checkout had changes."""
    return f"{git['commit'][:12]}{'+' * git['dirty']}" if git else None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


# From rows to a frame


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
    absent = [column for column in [*_COLUMNS, "signature", "fit_threshold"] if column not in frame]
    frame = frame.reindex(columns=[*frame.columns, *absent])
    return frame.astype(dict.fromkeys(_NUMBERS, float))  # also where all are missing


def _epochs_to_fit(runs: pd.DataFrame, epochs: Epochs, fit_threshold: float | None) -> pd.Series:
    """Epochs (1-based) until train_acc reached the threshold, for finished runs."""
    threshold = runs["fit_threshold"].fillna(np.inf).to_numpy(dtype=float)
    if fit_threshold is not None:
        threshold = np.full(len(runs), fit_threshold)
    curves = epochs.read("train_acc")
    curves = curves[curves["train_acc"].to_numpy() >= threshold[curves["run"]]]
    first = curves.groupby("run")["epoch"].min() + 1
    finished = runs["state"].isin(FINISHED)
    return first.reindex(runs.index).where(finished).astype(float)
