"""What a run leaves on disk: its identity, its paths, its state. Imports no torch.

The same config is the same folder, `runs/<name>/<run id>`, and the state of a run is read
from the files in it; it is stored nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import write_atomic
from .locks import exclusive, is_locked

SCHEMA = 1
"""Version of the files and of the hash; raised when a default or a format changes."""

STATES = ("planned", "running", "interrupted", "failed", "diverged", "done")
FINISHED = ("done", "diverged")
"""States that are results: such a run is not started again."""

NOT_HASHED = frozenset(
    {
        "out",
        "name",
        "force",
        "plan",
        "checkpoint_every",
        "time_limit",
        "fit_threshold",
        "dataset.root",
        "dataset.download",
        "corruption.path",
        "model.lr",  # it counts through optimizer.lr, which it fills
    }
)
"""Config keys that cannot change the numbers of a run, and so do not tell two runs apart."""

Plan = dict[str, dict[str, Any]]
"""Lines of `plan.jsonl` by run id."""


def device_kind(device: str) -> str:
    """`cuda` for `cuda:1`: the index of a device does not tell two runs apart."""
    return device.partition(":")[0]


def flat_keys(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a resolved config that can change the numbers, dotted, with plain values.

    A group's option stands under the group's own name, lists are texts, and a device has no
    index.
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
    """Number of records of a whole run with these `flat_keys`: its epochs, but one of an exact
    fit, which alone has no learning rate; None where the keys do not say."""
    return 1 if keys.get("optimizer.lr", "?") is None else keys.get("epochs")


@dataclass(frozen=True)
class _File:
    """A file of every run's folder: of a RunDir, its path."""

    name: str

    def __get__(self, run: RunDir, cls: type[RunDir]) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunDir:
    """All paths of one run, and the state that its files tell.

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

    def result(self) -> dict[str, Any] | None:
        """The content of done.json if it is whole and of this very config, else None."""
        result = read_json(self.done)
        if result and str(result.get("config_hash"))[:8] == self.run_id.rsplit("-", 1)[-1]:
            return result
        return None

    def state(self) -> str:
        """One of STATES. A run is running while its lock is held."""
        if result := self.result():
            return str(result["state"])
        if not self.config.is_file():
            return "planned"
        if is_locked(self._lock_file):
            return "running"
        return "failed" if self.error.is_file() else "interrupted"

    def lock(self, timeout: float = 0) -> AbstractContextManager[None]:
        """The lock that one process holds while it works on this run.

        Raises:
            filelock.Timeout: on entering, another process holds it.
        """
        return exclusive(self._lock_file, timeout)

    def records(self) -> int:
        """Number of whole records in metrics.jsonl."""
        try:
            return self.metrics.read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def holder(self) -> str:
        """Who began the last execution of this run, such as `pid 17 on host a`."""
        began = read_json(self.environment) or {}
        return f"pid {began.get('pid', '?')} on host {began.get('host', '?')}"

    def beat(self) -> None:
        """Leave a sign of life; its holder's, so that the lock's file is there."""
        os.utime(self._lock_file)

    def last_sign(self) -> float | None:
        """When the run last showed that it is alive, in seconds since 1970."""
        signs = []
        for file in (self._lock_file, self.metrics):
            with contextlib.suppress(OSError):
                signs.append(file.stat().st_mtime)
        return max(signs, default=None)

    def check_links(self) -> None:
        """ValueError if the folder, or a file in it, is a link: writing could lead elsewhere."""
        for path in (self.path, *(self.path.iterdir() if self.path.is_dir() else ())):
            if path.is_symlink():
                raise ValueError(
                    f"{path} is a link, and a run writes into its own folder only; remove the link"
                )

    def remove_leftovers(self) -> None:
        """Delete what a killed process had not finished writing."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def set_aside(self) -> Path | None:
        """Move the folder to `.replaced/<run id>.<k>` beside it; its new path, if there was one.

        Raises:
            filelock.Timeout: a process is executing the run.
        """
        if not self.path.exists():
            return None
        attic = self.path.parent / ".replaced"
        attic.mkdir(exist_ok=True)
        k = 1
        while (target := attic / f"{self.run_id}.{k}").exists():
            k += 1
        with self.lock():
            return self.path.rename(target)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON object atomically, with its schema version first."""
    write_atomic(path, json.dumps({"schema": SCHEMA, **content}, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, or None where there is none that is whole."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_plan(folder: Path) -> Plan:
    """The planned runs of `folder` (`runs/<name>`) by run id, in the order of planning."""
    plan: Plan = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / "plan.jsonl").read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and isinstance(entry.get("run_id"), str):
                    plan[entry["run_id"]] = entry
    return plan


def merge_plan(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Add `entries` (each with a `run_id`) to the plan of `folder`; known runs stay in place."""
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".plan.lock", timeout=60):
        plan = read_plan(folder)
        known = len(plan)
        for entry in entries:
            plan.setdefault(entry["run_id"], {"schema": SCHEMA, **entry})
        if len(plan) > known:
            lines = (json.dumps(entry, allow_nan=False) + "\n" for entry in plan.values())
            write_atomic(folder / "plan.jsonl", "".join(lines))
