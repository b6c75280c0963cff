"""Run folders as data frames: one row per run, and one per run and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from randlabels import metrics
from randlabels.rundir import (
    NOT_HASHED,
    RunDir,
    device_kind,
    read_json,
    read_plan,
    run_folders,
)

LEADING_KEYS = ["dataset", "model", "corruption", "corrupt"]
"""Config keys that every table shows."""

SEEDS = ["seed", "corruption.seed"]
"""Config keys over which tables take means."""

RESOURCES = ["device", "precision", "threads"]
"""What `auto` was decided to be, from environment.json; columns `used_<name>` in runs.csv."""


@dataclass
class Collection:
    """Everything found under a folder.

    runs: one row per run, planned ones included: run_id, state, all config keys, `final_` and
        `best_` metrics, epochs_to_fit, parameters, seconds, used_ resources, git.
    epochs: one row per run and epoch: run_id and the metrics.
    swept: the leading keys, then every other key that takes several values, seeds included.
    problems: one sentence for each folder that could not be read, or not in full.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    swept: list[str]
    problems: list[str]


def read(root: Path, fit_threshold: float | None = None) -> Collection:
    """Read all runs at or under `root`, whatever their state.

    A run that several folders hold counts once, by the one that has come furthest.

    fit_threshold: train accuracy (0..1) from which a run counts as fitted; None: its config's.

    Raises:
        FileNotFoundError: there is no run.
    """
    rows: dict[str, Row] = {}
    records: dict[str, list[metrics.Record]] = {}
    problems: list[str] = []

    def add(folder: Path, row: Row, found: list[metrics.Record]) -> None:
        run_id = row["run_id"]
        if run_id in rows:
            problems.append(f"{folder} holds the run of another folder; it counts once")
            if _PROGRESS.index(rows[run_id]["state"]) >= _PROGRESS.index(row["state"]):
                return
        rows[run_id], records[run_id] = row, found

    planned = dict(_planned(root, problems))
    for folder in run_folders(root):
        try:
            row, found, torn = _read_run(RunDir(folder), fit_threshold)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            problems.append(f"{folder} is passed over: {error}")
            planned.get(folder, {})["state"] = "damaged"
            continue
        if torn:
            problems.append(f"{folder}: the torn last line of metrics.jsonl is passed over")
        planned.pop(folder, None)
        add(folder, row, found)
    for folder, row in planned.items():
        add(folder, row, [])
    if not rows:
        raise FileNotFoundError(f"{root} holds no run; give a folder that a launch wrote to")
    ordered = [rows[run_id] for run_id in sorted(rows)]
    epochs = [{"run_id": run_id, **r} for run_id in sorted(rows) for r in records[run_id]]
    frame = pd.DataFrame(epochs, columns=["run_id", *metrics.KEYS])
    frame = frame.astype({**dict.fromkeys(metrics.KEYS, float), "epoch": int})
    return Collection(_frame(ordered), frame, _swept(ordered), problems)


Row = dict[str, Any]
"""One run: its state, config keys and results by column."""

_PROGRESS = ["planned", "damaged", "failed", "interrupted", "running", "diverged", "done"]


def _swept(rows: list[Row]) -> list[str]:
    """Null is a value; that an option has no such key is not, since the option tells it apart."""
    keys = {key for row in rows for key in row} - _NOT_KEYS - set(LEADING_KEYS)
    several = [k for k in sorted(keys) if len({repr(row[k]) for row in rows if k in row}) > 1]
    return LEADING_KEYS + several


def _frame(rows: list[Row]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    for column in set(frame.columns) - _NOT_KEYS:
        values = [row.get(column) for row in rows]
        if None in values and {type(value) for value in values} == {int, type(None)}:
            frame[column] = pd.array(values, dtype="Int64")  # whole numbers beside null
    absent = [column for column in _COLUMNS if column not in frame]
    frame = frame.reindex(columns=[*frame.columns, *absent])
    return frame.astype(dict.fromkeys(_NUMBERS, float))  # also where all are missing


_NUMBERS = [
    *(f"final_{key}" for key in metrics.MEASURED),
    *(f"best_{key}" for key in metrics.MEASURED),
    "epochs_to_fit",
    "parameters",
    "seconds",
]
_COLUMNS = ["run_id", "state", *_NUMBERS, *(f"used_{name}" for name in RESOURCES), "git"]
_NOT_KEYS = set(_COLUMNS)


def _read_run(run: RunDir, fit_threshold: float | None) -> tuple[Row, list[metrics.Record], bool]:
    """The row of a run, its records, and whether a torn last line was dropped."""
    config = yaml.load(run.config.read_bytes(), Loader=yaml.CSafeLoader)
    records, torn = metrics.read(run.metrics)
    environment = read_json(run.environment) or {}
    row = {
        "run_id": run.run_id,
        "state": run.state(),
        **_flat(config),
        **{f"used_{name}": environment.get(name) for name in RESOURCES},
        "git": _commit(environment.get("git")),
    }
    row["used_device"] = device_kind(environment.get("device", ""))
    if row["dataset"] == "image_folder":  # the same config reads whatever the folder holds
        row["dataset.sha256"] = environment.get("data_sha256", "")[:12]
    if (result := run.result()) is not None:
        threshold = config["fit_threshold"] if fit_threshold is None else fit_threshold
        row |= {f"final_{key}": value for key, value in metrics.final(records).items()}
        row |= {f"best_{key}": value for key, value in metrics.best(records).items()}
        row["epochs_to_fit"] = metrics.epochs_to_fit(records, threshold)
        row["parameters"] = result["parameters"]
        row["seconds"] = sum(record["seconds"] or 0.0 for record in records)
    return row, records, torn


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


def _planned(root: Path, problems: list[str]) -> Iterator[tuple[Path, Row]]:
    """Folder and row of each run in the plans at and under `root`."""
    for plan in sorted({root / "plan.jsonl", *root.glob("**/plan.jsonl")}):
        for run_id, entry in read_plan(plan.parent).items():
            try:
                yield (
                    plan.parent / run_id,
                    {
                        "run_id": run_id,
                        "state": "planned",
                        **_flat(entry["config"]),
                    },
                )
            except (KeyError, TypeError, AttributeError) as error:
                problems.append(f"{plan}, run {run_id} is passed over: no whole config ({error})")


def _commit(git: Mapping[str, Any] | None) -> str | None:
    """`<commit>`, with `+` where the checkout had changes."""
    return f"{git['commit'][:12]}{'+' * git['dirty']}" if git else None
