"""The progress of runs, read from their folders: what each is doing, and the time left."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from .rundir import FINISHED, RunDir, planned_records, read_json

# A run is stale after this time and three epochs without a heartbeat, which come every ten seconds.
STALE_AFTER_SECONDS = 120.0
RECENT_NANOSECONDS = 2 * 10**9  # a change this recent may hide another with the same time stamp
TAIL_BYTES = 16384  # read from the end of metrics.jsonl: a few dozen records
SETTLED = (*FINISHED, "failed", "foreign", "damaged")  # states that only another launch can change
IN_COLUMNS = ("model", "corrupt", "seed")  # keys that a display always shows

Survey = dict[str, Any]
"""What is known of a run: run_id, state, epoch and epochs (counts), train_acc and test_acc (0..1,
latest), images_per_second, seconds_per_epoch, seconds_left, age (seconds since the last write),
host, folder, error (the first line of what a failed run raised), keys (of its config, as
`rundir.flat_keys` names them); null where unknown."""


class Tracker:
    """Surveys of runs. Each look reads only what has changed since the last one.

    runs: folders with the `flat_keys` of their configs. launched: the runs are to be executed now,
        so that a run left by an earlier launch, here or on another host, counts as one that waits.
    """

    def __init__(self, runs: Iterable[tuple[RunDir, Mapping[str, Any]]], *, launched: bool) -> None:
        self._runs = list(runs)
        self._before = {run.path: _traces(run) for run, _ in self._runs if launched}
        self._seen: dict[Path, tuple[Any, Survey]] = {}
        values: dict[str, set[str]] = {}
        for _, keys in self._runs:
            for key, value in keys.items():
                values.setdefault(key, set()).add(repr(value))
        self._differing = [k for k in values if len(values[k]) > 1 and k not in IN_COLUMNS]

    def look(self) -> list[Survey]:
        """Return the survey of each run, with a further key `label`, such as `mlp lr=0.1`."""
        recent = time.time_ns() - RECENT_NANOSECONDS
        for run, keys in self._runs:
            version = file_version(run.path)
            before, found = self._seen.get(run.path, (None, {}))
            idle = found.get("state") not in ("running", "stale")  # a released lock leaves no trace
            if idle and version == before and version[0] < recent:
                continue
            with contextlib.suppress(OSError):
                found, _ = survey(run, keys, state := run.state())
                untouched = self._before.get(run.path) == _traces(run)
                if untouched and state in ("failed", "interrupted"):
                    found |= {"state": "interrupted", "seconds_left": None}
                others = (f"{k.rpartition('.')[2]}={keys[k]}" for k in self._differing if k in keys)
                found["label"] = " ".join([str(keys["model"]), *others])
                self._seen[run.path] = version, found
        return [found for _, found in self._seen.values()]


def survey(run: RunDir, keys: Mapping[str, Any], state: str) -> tuple[Survey, bool]:
    """Return the survey of a run, and whether the last line of its log is torn.

    state: as `RunDir.state` returns it, or another one that the folder has.
    """
    last, torn = _read_tail(run.metrics, file_version(run.metrics))
    written = run.last_sign()
    age = None if written is None else max(0.0, time.time() - written)
    seconds, done = last.get("seconds"), int(last.get("epoch", -1)) + 1
    epochs = planned_records(keys)
    host = (read_json(run.environment) or {}).get("host")
    elsewhere = host not in (None, socket.gethostname())  # its lock may be invisible
    if state == "running" or (state == "interrupted" and elsewhere):
        patience = STALE_AFTER_SECONDS + 3 * (seconds or 0.0)
        state = "running" if age is not None and age < patience else "stale"
    error = None
    if state == "failed":
        error = str((read_json(run.error) or {}).get("exception")).partition("\n")[0]
    return {
        "run_id": run.run_id,
        "state": state,
        "epoch": done,
        "epochs": epochs,
        "train_acc": last.get("train_acc"),
        "test_acc": last.get("test_acc"),
        "images_per_second": last.get("images_per_second"),
        "seconds_per_epoch": seconds,
        "seconds_left": (epochs - done) * seconds if seconds and state == "running" else None,
        "age": age,
        "host": host,
        "folder": str(run.path),
        "error": error,
        "keys": keys,
    }, torn and state != "running"


def file_version(path: Path) -> tuple[int, int]:
    """Return the time of the last change (ns) and the size of a file; zeros if it is missing."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _traces(run: RunDir) -> tuple[Any, ...]:
    """Return what a launch that begins a run changes."""
    return file_version(run.error), file_version(run.environment)


@lru_cache(20_000)
def _read_tail(file: Path, version: tuple[int, int]) -> tuple[dict[str, Any], bool]:
    """Return the last whole record, with the latest accuracies, and whether a torn line follows."""
    try:
        with open(file, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL_BYTES))
            *lines, rest = log.read().split(b"\n")
    except OSError:
        return {}, False
    records = [_parse_record(line) for line in lines]
    last: dict[str, Any] = {}
    for record in reversed(records):
        last = {**record, **last}
        if "train_acc" in last:
            break
    return last, bool(rest) or records[-1:] == [{}]


def _parse_record(line: bytes) -> dict[str, Any]:
    """Return the numbers in a line of metrics.jsonl, or nothing if it is not a record."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
        return {}
    return {key: value for key, value in record.items() if isinstance(value, int | float)}


def totals(runs: Sequence[Survey]) -> dict[str, Any]:
    """Return the number of runs by state, epochs done and to do, speed and time left.

    `seconds_left` is for all unfinished runs, as many at once as run now; null if none is running.
    Epochs of a run without records are taken to be as long as those of its model, or of all.
    """
    running = [run for run in runs if run["state"] == "running"]
    todo = [run for run in runs if run["state"] not in SETTLED]
    lengths: dict[Any, list[float]] = {}
    for run in runs:
        if run["seconds_per_epoch"]:
            for kind in (run["keys"].get("model"), None):
                lengths.setdefault(kind, []).append(run["seconds_per_epoch"])
    usual = {kind: sum(known) / len(known) for kind, known in lengths.items()}
    left = [(run["epochs"] or 0) - run["epoch"] for run in todo]
    seconds = 0.0
    for run, epochs in zip(todo, left, strict=True):
        known = usual.get(run["keys"].get("model"), usual.get(None, 0.0))
        seconds += epochs * (run["seconds_per_epoch"] or known)
    last = max((run["seconds_left"] or 0.0 for run in running), default=0.0)
    return {
        "runs": len(runs),
        "states": dict(sorted(Counter(run["state"] for run in runs).items())),
        "epochs_done": sum(run["epoch"] for run in runs),
        "epochs_left": sum(left),
        "images_per_second": sum(run["images_per_second"] or 0.0 for run in running),
        "seconds_left": max(seconds / len(running), last) if running and usual else None,
    }
