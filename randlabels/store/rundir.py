"""A run on disk: its identity, its paths and its state. Imports no torch.

The same config is the same folder, `runs/<name>/<run id>`. The state of a run is read from the
files in it and stored nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import BaseFileLock

from .files import make_folder, write_atomic
from .locks import exclusive, is_locked

SCHEMA = 1
"""Version of the files and of the hash; raise it when a default or a format changes."""

STATES = ("planned", "running", "interrupted", "failed", "diverged", "done")
FINISHED = ("done", "diverged")
"""States that are results. Such a run is not started again."""

NOT_HASHED = frozenset(
    {
        "imports",
        "out",
        "name",
        "force",
        "plan",
        "checkpoint_every",
        "time_limit",
        "on_failure",
        "verbose",
        "fit_threshold",
        "keep",
        "dataset.root",
        "dataset.download",
        "corruption.path",
        "model.lr",  # fills optimizer.lr, which is hashed
    }
)
"""Config keys that cannot change the numbers of a run, and so are not part of its identity."""

Plan = dict[str, dict[str, Any]]
"""Lines of `plan.jsonl` by run id."""


def device_kind(device: str) -> str:
    """Return `cuda` for `cuda:1`: the index of a device is not part of a run's identity."""
    return device.partition(":")[0]


def flat_keys(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dotted keys of a resolved config that can change the numbers, with plain values.

    The name of a group's option stands under the group's name. Lists become texts, and a device
    loses its index.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
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


def planned_records(keys: Mapping[str, Any]) -> Any:
    """Return how many records a whole run with these `flat_keys` writes; None if unknown.

    One per epoch, and a single one for an exact fit, which has no learning rate.
    """
    return 1 if keys.get("optimizer.lr", "?") is None else keys.get("epochs")


@dataclass(frozen=True)
class _File:
    """The path of a file in the folder of a `RunDir`."""

    name: str

    def __get__(self, run: RunDir, cls: type[RunDir]) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunDir:
    """All paths of one run, and the state that its files show.

    path: `<out>/<name>/<run id>`; the run id ends with the first 8 digits of the config hash.
    """

    path: Path

    config = _File("config.yaml")
    log = _File("run.log")
    environment = _File("environment.json")
    corruption = _File("corruption.json")
    metrics = _File("metrics.jsonl")
    checkpoint = _File("checkpoint.pt")
    previous_checkpoint = _File("checkpoint.prev.pt")
    done = _File("done.json")
    error = _File("error.json")
    _lock_file = _File(".lock")

    @property
    def run_id(self) -> str:
        return self.path.name

    def weights(self, epoch: int) -> Path:
        """Return the file of the weights kept after an epoch (0-based); -1: the initial ones."""
        return self.path / "weights" / ("initial.pt" if epoch < 0 else f"epoch-{epoch:04d}.pt")

    def result(self) -> dict[str, Any] | None:
        """Return the content of done.json, or None unless it is whole and of this config."""
        result = read_json(self.done)
        if result and str(result.get("config_hash"))[:8] == self.run_id.rsplit("-", 1)[-1]:
            return result
        return None

    def state(self) -> str:
        """Return one of `STATES`. A run is running while a process holds its lock."""
        if result := self.result():
            return str(result["state"])
        if not self.config.is_file():
            return "planned"
        if is_locked(self._lock_file):
            return "running"
        return "failed" if self.error.is_file() else "interrupted"

    def lock(self, timeout: float = 0) -> BaseFileLock:
        """Return the lock that one process holds while it executes this run.

        Raises:
            filelock.Timeout: on entering, another process holds it.
        """
        return exclusive(self._lock_file, timeout)

    def records(self) -> int:
        """Return the number of whole records in metrics.jsonl."""
        try:
            return self.metrics.read_bytes().count(b"\n")
        except OSError:  # missing, or not a file
            return 0

    def holder(self) -> str:
        """Return which process began the last execution, such as `pid 17 on host a`."""
        began = read_json(self.environment) or {}
        return f"pid {began.get('pid', '?')} on host {began.get('host', '?')}"

    def beat(self) -> None:
        """Show that the run is alive. Only the holder of the lock may call this."""
        os.utime(self._lock_file)

    def last_sign(self) -> float | None:
        """Return when the run last showed that it is alive, in seconds since 1970."""
        signs = []
        for file in (self._lock_file, self.metrics):
            with contextlib.suppress(OSError):
                signs.append(file.stat().st_mtime)
        return max(signs, default=None)

    def check_links(self) -> None:
        """Raise ValueError if the folder or a file in it is a link: writes could end elsewhere."""
        for path in (self.path, *(self.path.iterdir() if self.path.is_dir() else ())):
            if path.is_symlink():
                raise ValueError(
                    f"{path} is a link, and a run writes into its own folder only; remove the link"
                )

    def remove_leftovers(self) -> None:
        """Delete files that a killed process had not finished writing."""
        for path in self.path.rglob(".*.tmp"):
            path.unlink(missing_ok=True)

    def set_aside(self) -> Path | None:
        """Move the folder to `.replaced/<run id>.<k>`; return its new path, or None without one.

        Raises:
            filelock.Timeout: a process is executing the run.
        """
        if not self.path.exists():
            return None
        replaced = self.path.parent / ".replaced"
        replaced.mkdir(exist_ok=True)
        k = 1
        while (target := replaced / f"{self.run_id}.{k}").exists():
            k += 1
        with self.lock():
            return self.path.rename(target)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON object atomically, with its schema version first."""
    write_atomic(path, json.dumps({"schema": SCHEMA, **content}, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`, or None if it is missing or broken."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_plan(folder: Path) -> Plan:
    """Return the planned runs of `folder` (`runs/<name>`) by run id, in the order of planning.

    Lines that are not a planned run are skipped.

    Raises:
        OSError: plan.jsonl exists and cannot be read.
    """
    plan: Plan = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / "plan.jsonl").read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and isinstance(entry.get("run_id"), str):
                    plan[entry["run_id"]] = entry
    return plan


def merge_plan(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Add `entries` (each with a `run_id`) to the plan of `folder`.

    A run that is already planned keeps its line's position and takes the new content, so that
    the plan holds what was asked for last (the `fit_threshold`, for instance).
    """
    make_folder(folder)
    with exclusive(folder / ".plan.lock", timeout=60):
        before = read_plan(folder)
        plan = before | {entry["run_id"]: {"schema": SCHEMA, **entry} for entry in entries}
        if plan != before:
            lines = (json.dumps(entry, allow_nan=False) + "\n" for entry in plan.values())
            write_atomic(folder / "plan.jsonl", "".join(lines))
