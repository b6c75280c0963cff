"""The progress of runs, read from their folders: what each is doing, and the time left."""

import contextlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .rundir import FINISHED, RunDir, planned_records, read_json

# A run is stale after this time and three epochs without a heartbeat, which come every ten seconds.
STALE_AFTER_SECONDS = 120.0
TAIL_BYTES = 16384  # read from the end of metrics.jsonl: a few dozen records
SETTLED = (*FINISHED, "failed", "foreign", "damaged")  # states that only another launch can change

Survey = dict[str, Any]
"""What is known of a run: run_id, state, epoch and epochs (counts), train_acc and test_acc (0..1,
latest), images_per_second, seconds_per_epoch, seconds_left, age (seconds since the last write),
host, folder, error (the first line of what a failed run raised), torn (whether the last line of its
log is), keys (of its config, as `rundir.flat_keys` names them); null where unknown."""


def differing_keys(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys that have several values among the `flat_keys` of runs.

    Null is a value. A key that an option lacks is not: the name of the option tells it apart.
    """
    first: dict[str, Any] = {}
    pairs = [pair for keys in runs for pair in keys.items()]
    several = {key for key, value in pairs if first.setdefault(key, value) != value}
    return [key for key in first if key in several]


class Tracker:
    """Surveys of the runs of a launch. Runs that are finished or have no folder are read once.

    A run that an earlier launch left, here or on another host, counts as one that waits.

    runs: folders with the `flat_keys` of their configs.
    """

    def __init__(self, runs: Iterable[tuple[RunDir, Mapping[str, Any]]]) -> None:
        self._runs = [(run, keys, _traces(run)) for run, keys in runs]
        self._seen: dict[Path, Survey] = {}

    def look(self) -> list[Survey]:
        """Return the survey of each run."""
        for run, keys, before in self._runs:
            known = self._seen.get(run.path, {}).get("state")
            if known in FINISHED or (known == "planned" and not run.path.exists()):
                continue
            with contextlib.suppress(OSError):
                found = survey(run, keys, state := run.state())
                if state in ("failed", "interrupted") and _traces(run) == before:
                    found |= {"state": "interrupted", "seconds_left": None}
                self._seen[run.path] = found
        return list(self._seen.values())


def _traces(run: RunDir) -> list[float]:
    """Return when the files were written that a launch changes as it begins a run."""
    traces = []
    for file in (run.error, run.environment):
        with contextlib.suppress(OSError):
            traces.append(file.stat().st_mtime)
    return traces


def survey(run: RunDir, keys: Mapping[str, Any], state: str) -> Survey:
    """Return the survey of a run.

    state: as `RunDir.state` returns it, or another one that the folder has.
    """
    last, torn = _read_tail(run.metrics)
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
        **{key: last.get(key) for key in ("train_acc", "test_acc", "images_per_second")},
        "seconds_per_epoch": seconds,
        "seconds_left": (epochs - done) * seconds if seconds and state == "running" else None,
        "age": age,
        "host": host,
        "folder": str(run.path),
        "error": error,
        "torn": torn and state != "running",
        "keys": keys,
    }


def _read_tail(file: Path) -> tuple[dict[str, Any], bool]:
    """Return the last whole record, with the latest accuracies, and whether a torn line follows."""
    try:
        with open(file, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL_BYTES))
            *lines, rest = log.read().split(b"\n")
    except OSError:
        return {}, False
    last: dict[str, Any] = {}
    for line in reversed(lines):
        last = {**_parse_record(line), **last}
        if "train_acc" in last:
            break
    return last, bool(rest or (lines and not _parse_record(lines[-1])))


def _parse_record(line: bytes) -> dict[str, Any]:
    """Return the numbers in a line of metrics.jsonl, or nothing if it is not a record."""
    try:
        record = json.loads(line)
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
    except (ValueError, AttributeError):
        return {}
    return numbers if isinstance(numbers.get("epoch"), int) else {}


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
