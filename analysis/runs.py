"""Run folders as data frames: one row per run, and one per run and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from randlabels import metrics
from randlabels.rundir import NOT_HASHED, RunDir, read_json, read_plan, run_folders

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
        `best_` metrics, epochs_to_fit, parameters, seconds, git.
    epochs: one row per run and epoch: run_id and the metrics.
    problems: one sentence for each folder that could not be read, or not in full.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    problems: list[str] = field(default_factory=list)

    @property
    def swept(self) -> list[str]:
        """The leading keys, then every other key that takes several values, seeds included."""
        keys = [c for c in self.runs.columns if c in self.runs.attrs["keys"]]
        others = [
            key
            for key in sorted(set(keys) - set(LEADING_KEYS))
            if self.runs[key].dropna().astype(str).nunique() > 1
        ]
        return LEADING_KEYS + others


def read(root: Path, fit_threshold: float | None = None) -> Collection:
    """Read all runs at or under `root`, whatever their state.

    fit_threshold: train accuracy (0..1) from which a run counts as fitted; None: its config's.

    Raises:
        FileNotFoundError: there is no run.
    """
    rows: dict[str, dict[str, Any]] = {}
    epochs: list[dict[str, Any]] = []
    problems: list[str] = []
    for folder in run_folders(root):
        try:
            row, records, torn = _read_run(RunDir(folder), fit_threshold)
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            problems.append(f"{folder} is passed over: {error}")
            continue
        if torn:
            problems.append(f"{folder}: the torn last line of metrics.jsonl is passed over")
        rows[str(folder)] = row
        epochs += [{"run_id": row["run_id"], **record} for record in records]
    for folder, entry in _planned(root):
        if str(folder) not in rows:
            rows[str(folder)] = {
                "run_id": entry["run_id"],
                "state": "planned",
                **_flat(entry["config"]),
            }
    if not rows:
        raise FileNotFoundError(f"{root} holds no run; give a folder that a launch wrote to")
    keys = {k for row in rows.values() for k in row if k not in _NOT_KEYS}
    runs = pd.DataFrame([rows[key] for key in sorted(rows)])
    runs = runs.reindex(columns=[*runs.columns, *(c for c in _COLUMNS if c not in runs)])
    runs.attrs["keys"] = keys
    runs = runs.astype(dict.fromkeys(_NUMBERS, float))  # also where all are missing
    frame = pd.DataFrame(epochs, columns=["run_id", *metrics.KEYS])
    frame = frame.astype({**dict.fromkeys(metrics.KEYS, float), "epoch": int})
    return Collection(runs, frame, problems)


_NUMBERS = [
    *(f"final_{key}" for key in metrics.MEASURED),
    *(f"best_{key}" for key in metrics.MEASURED),
    "epochs_to_fit",
    "parameters",
    "seconds",
]
_COLUMNS = ["run_id", "state", *_NUMBERS, *(f"used_{name}" for name in RESOURCES), "git"]
_NOT_KEYS = set(_COLUMNS)


def _read_run(
    run: RunDir, fit_threshold: float | None
) -> tuple[dict[str, Any], list[metrics.Record], bool]:
    """One row of `runs`, the records, and whether a torn last line was dropped."""
    config = yaml.load(run.config.read_bytes(), Loader=yaml.CSafeLoader)
    records, torn = metrics.read(run.metrics)
    result = run.result() or {}
    environment = read_json(run.environment) or {}
    threshold = config["fit_threshold"] if fit_threshold is None else fit_threshold
    row = {
        "run_id": run.run_id,
        "state": run.state(),
        **_flat(config),
        **{f"final_{key}": value for key, value in metrics.final(records).items()},
        **{f"best_{key}": value for key, value in metrics.best(records).items()},
        "epochs_to_fit": metrics.epochs_to_fit(records, threshold),
        "parameters": result.get("parameters"),
        "seconds": sum(record["seconds"] or 0.0 for record in records) if records else None,
        **{f"used_{name}": environment.get(name) for name in RESOURCES},
        "git": _commit(environment.get("git")),
    }
    return row, records, torn


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys that can change the numbers; a group's name stands under the group's own."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat[key] = value["name"]
            flat.update({f"{key}.{k}": v for k, v in value.items() if k != "name"})
        else:
            flat[key] = value
    return {
        key: str(value) if isinstance(value, list) else value
        for key, value in flat.items()
        if key not in NOT_HASHED
    }


def _planned(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folder and entry of each run in the plans at and under `root`."""
    for plan in sorted([root / "plan.jsonl", *root.glob("**/plan.jsonl")]):
        for run_id, entry in read_plan(plan.parent).items():
            yield plan.parent / run_id, entry


def _commit(git: Mapping[str, Any] | None) -> str | None:
    """`<commit>`, with `+` where the checkout had changes."""
    return f"{git['commit'][:12]}{'+' * git['dirty']}" if git else None
