"""Run folders as rows of plain values; folders that did not change are not read again."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from randlabels.store import metrics, rundir
from randlabels.store.rundir import (
    FINISHED,
    SCHEMA,
    RunDir,
    device_kind,
    flat_keys,
    read_json,
    read_plan,
)

from . import epochs, formats

RESOURCES = ["device", "precision", "threads"]
"""What `auto` was decided to be, from environment.json; columns `used_<name>` in runs.csv."""

VERSIONS = ["torch", "numpy"]
"""Packages whose version can change the numbers; columns `used_<name>` in runs.csv."""

CODE = hashlib.sha256(
    b"".join(
        Path(file).read_bytes()
        for file in (__file__, epochs.__file__, formats.__file__, metrics.__file__, rundir.__file__)
    )
).hexdigest()
"""Of the files that make what is cached: another version's cache is not believed."""

SOLUTION = ("relative_residual", "norm")
"""What an exact fit reports beside its metrics, by the names of done.json."""

FILES = ("config.yaml", "metrics.jsonl", "done.json", "error.json", "environment.json")
"""Those by whose sizes and times a change of a run is noticed."""

ENTRY = re.compile(rb"\w+:.*\n(?:(?: |- ).*\n)*")
"""A key at the left margin of a YAML file, with all that stands under it."""

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError)
"""What reading a file of unexpected content may raise."""

Row = dict[str, Any]
"""One run: `keys`, its config keys as `rundir.flat_keys` names them; and by column its id, folder,
state and results."""


class Foreign(ValueError):
    """A folder that this version did not write."""


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
        try:
            if row is None or row["signature"] != signature:
                row = {**_read_run(RunDir(Path(folder))), "signature": signature}
                json.dumps(row)  # plain values only
            if row["state"] not in FINISHED:
                row["state"] = RunDir(Path(folder)).state()
        except Foreign as error:
            problems.append(f"{folder} is passed over: {error}")
            planned.get(folder, {})["state"] = "foreign"
            continue
        except DAMAGE as error:
            problems.append(f"{folder} is damaged and passed over: {_first_line(error)}")
            planned.get(folder, {})["state"] = "damaged"
            continue
        kept[place] = row
        planned.pop(folder, None)
        rows.append({**row, "folder": folder})
    known.clear()
    known.update(kept)
    return [*rows, *planned.values()], problems


def _scan(folder: str, plans: list[Path]) -> Iterator[tuple[str, list[Any]]]:
    """Each run folder, and size and time of each of its files, without reading any; the plans
    that are found on the way are added to `plans`."""
    try:
        with os.scandir(folder) as found:
            entries = {entry.name: entry for entry in found}
    except OSError:  # it went away, or is not for us
        return
    if "config.yaml" in entries:
        signature: list[Any] = []
        for name in FILES:
            try:
                status = entries[name].stat()
                signature.append([status.st_mtime_ns, status.st_size])
            except (KeyError, OSError):  # it is not there, or no longer
                signature.append(None)
        yield folder, signature
        return
    if "plan.jsonl" in entries:
        plans.append(Path(folder) / "plan.jsonl")
    for name, entry in entries.items():
        if entry.is_dir(follow_symlinks=False) and not name.startswith("."):
            yield from _scan(entry.path, plans)


def _read_run(run: RunDir) -> Row:
    """The row of a run, from all its files but metrics.jsonl; its state where it is finished."""
    config = _config(run.config.read_bytes())
    if not isinstance(config, dict) or "model" not in config or "corrupt" not in config:
        raise Foreign("config.yaml is none of this program")
    environment = read_json(run.environment) or {}
    if (schema := environment.get("schema", SCHEMA)) != SCHEMA:
        raise Foreign(f"it was written as schema {schema}, and this program reads {SCHEMA}")
    if not (isinstance(config["epochs"], int) and 0 <= config["corrupt"] <= 1):
        raise ValueError("epochs or corrupt in config.yaml is no number of its range")
    versions = environment.get("versions") or {}
    corruption = read_json(run.corruption) or {}
    result = run.result()
    row = {
        "run_id": run.run_id,
        "state": str(result["state"]) if result else "",
        "fit_threshold": config["fit_threshold"],
        "host": environment.get("host"),
        "classes": corruption.get("classes"),
        "share_changed": _number(corruption.get("share_changed")),
        "keys": flat_keys(config),
        **{f"used_{name}": environment.get(name) for name in RESOURCES},
        **{f"used_{name}": versions.get(name) for name in VERSIONS},
        "git": _commit(environment.get("git")),
    }
    row["used_device"] = device_kind(environment.get("device", ""))
    if row["keys"]["dataset"] == "image_folder":  # whatever the folder holds, by the same config
        row["keys"]["dataset.sha256"] = environment.get("data_sha256", "")[:12]
    if result is not None:
        for kind in ("final", "best"):
            row |= {f"{kind}_{key}": _number(result[kind][key]) for key in metrics.MEASURED}
        row |= {key: _number(result[key]) for key in ("parameters", "seconds")}
        row["records"] = result["epochs"]
        solution = result.get("solution") or {}
        row |= {key: _number(solution[key]) for key in SOLUTION if key in solution}
    return row


def _config(text: bytes) -> Any:
    """A config.yaml, key by key: the runs of a sweep have most of their lines in common."""
    entries = ENTRY.findall(text)
    try:
        if b"".join(entries) == text:
            return {key: value for entry in entries for key, value in _yaml(entry).items()}
    except (yaml.YAMLError, AttributeError):
        pass  # a key does not stand alone
    return _yaml(text)


@lru_cache(4096)
def _yaml(text: bytes) -> Any:
    return yaml.load(text, Loader=yaml.CSafeLoader)


def _number(value: Any) -> float | None:
    if value is not None and not isinstance(value, int | float):
        raise ValueError(f"{value!r} in its files is no number")
    return value


def _planned(plans: list[Path], problems: list[str]) -> Iterator[tuple[str, Row]]:
    """Folder and row of each run in `plans`."""
    for plan in plans:
        for run_id, entry in read_plan(plan.parent).items():
            folder = str(plan.parent / run_id)
            try:
                keys = flat_keys(entry["config"])
            except (KeyError, TypeError, AttributeError) as error:
                problems.append(f"{plan}, run {run_id} is passed over: no whole config ({error})")
            else:
                yield folder, {"run_id": run_id, "state": "planned", "folder": folder, "keys": keys}


def _commit(git: Mapping[str, Any] | None) -> str | None:
    """`<commit>`, with `+` where the checkout had changes."""
    return f"{git['commit'][:12]}{'+' * git['dirty']}" if git else None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
