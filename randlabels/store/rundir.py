"""A run on disk: its paths, its state, and which keys are not its identity. Imports no torch."""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import BaseFileLock

from .files import exclusive, is_locked, make_folder, write_atomic

SCHEMA = 1  # version of the files and of the hash; raise it when a default or a format changes
FINISHED = ("done", "diverged")  # states of runs that are not started again

NOT_HASHED = {  # keys that cannot change the numbers of a run, and are not in its identity
    *("imports", "out", "name", "force", "plan", "checkpoint_every", "time_limit", "on_failure"),
    *("verbose", "fit_threshold", "keep", "examples"),
    *("dataset.root", "dataset.download", "corruption.path"),
    "model.lr",  # fills optimizer.lr, which is hashed
}


def device_kind(device: str) -> str:
    """Return `cuda` for `cuda:1`: the index of a device is not part of a run's identity."""
    return device.partition(":")[0]


def flat_keys(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dotted keys of a resolved config that can change the numbers.

    The name of a group's option stands under the group's name. Lists become texts.
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
    """Return how many records a whole run writes: one per epoch, one for an exact fit."""
    return 1 if keys.get("optimizer.lr", "?") is None else keys.get("epochs")


class RunDir:
    """All paths of one run, and the state that its files show."""

    def __init__(self, path: Path) -> None:
        self.path: Path = path  # <out>/<name>/<run id>; the id ends with 8 digits of the hash
        self.run_id: str = path.name
        self.config: Path = path / "config.yaml"
        self.log: Path = path / "run.log"
        self.environment: Path = path / "environment.json"
        self.corruption: Path = path / "corruption.json"
        self.metrics: Path = path / "metrics.jsonl"
        self.examples: Path = path / "examples.parquet"
        self.checkpoint: Path = path / "checkpoint.pt"
        self.previous_checkpoint: Path = path / "checkpoint.prev.pt"
        self.done: Path = path / "done.json"
        self.error: Path = path / "error.json"
        self._lock_file: Path = path / ".lock"

    def weights(self, epoch: int) -> Path:
        """Return the file of the weights kept after an epoch (0-based); -1: the initial ones."""
        return self.path / "weights" / ("initial.pt" if epoch < 0 else f"epoch-{epoch:04d}.pt")

    def records_examples(self) -> bool:
        """Return whether the run was begun with examples=true, which it keeps when it resumes."""
        return self.config.is_file() and b"\nexamples: true\n" in self.config.read_bytes()

    def result(self) -> dict[str, Any] | None:
        """Return the content of done.json, or None unless it is whole and of this config."""
        result = read_json(self.done)
        if result and str(result.get("config_hash"))[:8] == self.run_id.rsplit("-", 1)[-1]:
            return result
        return None

    def state(self) -> str:
        """Return planned, running (locked), interrupted, failed, diverged or done."""
        if result := self.result():
            return str(result["state"])
        if not self.config.is_file():
            return "planned"
        if is_locked(self._lock_file):
            return "running"
        return "failed" if self.error.is_file() else "interrupted"

    def lock(self, timeout: float = 0) -> BaseFileLock:
        """Return the lock that one process holds while it executes this run; see `exclusive`."""
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

        filelock.Timeout if a process is executing the run.
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


def read_plan(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the planned runs of `folder` (`runs/<name>`) by run id, in the order of planning.

    Lines that are not a planned run are skipped. OSError if plan.jsonl cannot be read.
    """
    plan = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / "plan.jsonl").read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and isinstance(entry.get("run_id"), str):
                    plan[entry["run_id"]] = entry
    return plan


def merge_plan(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Add `entries`, each with a `run_id`, to the plan of `folder`, in place of earlier ones."""
    make_folder(folder)
    with exclusive(folder / ".plan.lock", timeout=60):
        before = read_plan(folder)
        plan = before | {entry["run_id"]: {"schema": SCHEMA, **entry} for entry in entries}
        if plan != before:
            lines = (json.dumps(entry, allow_nan=False) + "\n" for entry in plan.values())
            write_atomic(folder / "plan.jsonl", "".join(lines))
