"""Run folders as rows of plain values."""

import json
import os
import shlex
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from randlabels.store.rundir import SCHEMA, RunDir, device_kind, flat_keys, read_json, read_plan

# With what a run was computed: what `auto` was resolved to, versions, commit.
ORIGIN = "used_device used_precision used_threads used_torch used_numpy device_name git".split()
SOLUTION = ["relative_residual", "norm"]  # what done.json of an exact fit has besides its metrics
MAX_LISTED = 20  # names in one sentence
COMMANDS = ("run.py", "randlabels")  # how argv begins where a user, not a worker, started a run
# Exceptions that reading a file with unexpected content may raise.
READING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError)

Row = dict[str, Any]
"""One run: `keys` holds its config keys as `rundir.flat_keys` names them; the other entries are
columns of the table of runs."""


class Foreign(ValueError):
    """Raised for a folder that this version did not write."""


def read(root: Path) -> tuple[list[Row], list[str]]:
    """Return the row of each run folder at or under `root` and of each planned run without a
    folder, and a sentence for each folder that is skipped.

    Raises:
        FileNotFoundError: `root` is not a folder, or holds no run; with what was skipped.
    """
    if not root.is_dir():
        near = sorted(p.name for p in root.parent.glob("*/") if not p.name.startswith("."))
        more = ", …" if len(near) > MAX_LISTED else ""
        listed = f"; {root.parent} has {', '.join(near[:MAX_LISTED])}{more}" if near else ""
        raise FileNotFoundError(f"{root} must be a folder{listed}")
    rows: list[Row] = []
    problems: list[str] = []
    folders, plans = _find_folders(root, problems)
    single = folders == [str(root)]
    if single:  # its plan is next to it, and names other runs too
        plans = list(root.parent.glob("plan.jsonl"))
    planned = _read_plans(plans, problems)
    for folder in folders:
        entry = planned.pop(folder, {})
        try:
            row = _read_run(RunDir(Path(folder)))
        except READING_ERRORS as error:
            state = "foreign" if isinstance(error, Foreign) else "damaged"
            first_line = f"{type(error).__name__}: {error}".partition("\n")[0]
            reason = error if state == "foreign" else f"damaged ({first_line})"
            problems.append(f"{folder} is skipped: {reason}")
            rows += [{**entry, "state": state}] if entry else []
        else:
            rows.append({**row, **entry, "state": row["state"], "keys": row["keys"]})
    rows += [] if single else planned.values()
    if not rows:
        sentences = [f"{root} holds no run; give a folder that a launch wrote to", *problems]
        raise FileNotFoundError("; ".join(sentences))
    return rows, problems


def _find_folders(root: Path, problems: list[str]) -> tuple[list[str], list[Path]]:
    """Return the run folders and the plans, each sorted; not in links, hidden folders or runs."""

    def report(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # which was moved away in the meantime
            problems.append(f"{error.filename} is skipped: {error.strerror}")

    folders, plans = [], []
    for path, names, files in os.walk(root, onerror=report):
        if "config.yaml" in files:
            folders.append(path)
            names.clear()
            continue
        if "plan.jsonl" in files + names:
            plans.append(Path(path) / "plan.jsonl")
        names[:] = (name for name in names if not name.startswith(".") and name != "plan.jsonl")
    return sorted(folders), sorted(plans)


def _read_plans(plans: Iterable[Path], problems: list[str]) -> dict[str, Row]:
    """Return the row of each planned run by its folder."""
    planned: dict[str, Row] = {}
    for plan in plans:
        try:
            entries = read_plan(plan.parent)
            if not entries:
                raise ValueError("it was not written by randlabels")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            problems.append(f"{plan} is skipped: {reason}; runs without a folder are not counted")
            continue
        for run_id, entry in entries.items():
            folder = str(plan.parent / run_id)
            try:
                keys, threshold = flat_keys(entry["config"]), entry["config"].get("fit_threshold")
            except (KeyError, TypeError, AttributeError) as error:
                problems.append(f"{plan}, run {run_id} is skipped: no whole config ({error})")
                continue
            row: Row = {"run_id": run_id, "state": "planned", "folder": folder, "keys": keys}
            row |= {"fit_threshold": threshold, "overrides": entry.get("overrides")}
            planned[folder] = row
    return planned


def _read_run(run: RunDir) -> Row:
    """Return the row of a run, from all its files but metrics.jsonl."""
    config = _parse_config(run.config.read_bytes())
    if not isinstance(config, dict) or "model" not in config or "corrupt" not in config:
        raise Foreign("config.yaml was not written by randlabels")
    environment = read_json(run.environment) or {}
    if (schema := environment.get("schema", SCHEMA)) != SCHEMA:
        raise Foreign(f"it was written as schema {schema}, and this program reads {SCHEMA}")
    if not (isinstance(config["epochs"], int) and 0 <= config["corrupt"] <= 1):
        raise ValueError("epochs or corrupt in config.yaml is out of range")
    json.dumps(config)  # TypeError for values that the tables cannot hold, such as dates
    corruption, result = read_json(run.corruption) or {}, run.result()
    numbers = {"share_changed": corruption.get("share_changed")}
    if result is not None:
        for kind in ("final", "best"):
            numbers |= {f"{kind}_{key}": value for key, value in result[kind].items()}
        solution = result.get("solution") or {}
        numbers |= {key: solution[key] for key in SOLUTION if key in solution}
        numbers |= {key: result[key] for key in ("parameters", "seconds")}
        numbers["records"] = result["epochs"]
    for name, value in [*numbers.items(), ("threads", environment.get("threads"))]:
        if not isinstance(value, int | float | None):
            raise ValueError(f"{name}={value!r} in its files must be a number")
    used = {**environment, **(environment.get("versions") or {})}
    git, (command, *arguments) = environment.get("git"), environment.get("argv") or [""]
    by_user = Path(command).name in COMMANDS
    row = {
        "run_id": run.run_id,
        "folder": str(run.path),
        "state": str(result["state"]) if result else run.state(),
        "fit_threshold": config["fit_threshold"],
        "host": environment.get("host"),
        "classes": corruption.get("classes"),
        "keys": flat_keys(config),
        **{column: used.get(column.removeprefix("used_")) for column in ORIGIN},
        "used_device": device_kind(environment.get("device", "")),
        "git": f"{git['commit'][:12]}{'+' * git['dirty']}" if git else None,  # + where changed
        "command": shlex.join(["python", "-m", "randlabels.run", *arguments]) if by_user else None,
        **numbers,
    }
    if row["keys"]["dataset"] == "image_folder":  # the same config may read other images
        row["keys"]["dataset.sha256"] = environment.get("data_sha256", "")[:12]
    return row


@lru_cache(20_000)
def _parse_config(text: bytes) -> Any:
    """Parse a config.yaml. The cache serves `status --watch`, which reads all runs repeatedly."""
    return yaml.load(text, Loader=yaml.CSafeLoader)
