"""`python -m analysis.status DIR [--watch] [--json]`: what every run is doing, from its files."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from randlabels.console import counted, no_folder, until_nobody_reads
from randlabels.store.rundir import FINISHED, RunDir, planned_records, read_json

from .folders import Row, read_rows
from .formats import percent

PATIENCE = 120.0
"""Seconds without a sign of life, beyond three epochs, after which a run is stale: twelve of those
that a run gives every ten seconds."""

TAIL = 16384
"""Bytes from the end of metrics.jsonl, some dozen records."""

SETTLED = (*FINISHED, "failed")
"""States that no run leaves without another launch."""

STYLES = {"done": "green", "running": "cyan", "failed": "red", "damaged": "red"}


def main(arguments: list[str] | None = None) -> None:
    """Show the table once, or again and again until interrupted or no run has anything to do."""
    options = _parser().parse_args(arguments)
    if not options.dir.is_dir():
        sys.exit(f"Error: {no_folder(options.dir)}")
    known: dict[str, Row] = {}
    runs, problems = survey(options.dir, known)
    if not runs and not problems:
        sys.exit(f"Error: {options.dir} holds no run; give a folder that a launch wrote to")
    if options.json:
        print(json.dumps({"runs": runs, "totals": totals(runs), "problems": problems}, indent=2))
    elif options.watch:
        _watch(options.dir, known, options.interval)
    else:
        _console().print(render(options.dir, runs, problems))


def survey(root: Path, known: dict[str, Row]) -> tuple[list[dict[str, Any]], list[str]]:
    """What is known of each run at or under `root`, and a sentence for each problem.

    Keys: run_id, state, epoch and epochs (counts), train_acc and test_acc (0..1, latest),
    images_per_second, seconds_left, age (seconds since the last write), host, folder, error (what a
    failed run raised, its first line); null where unknown.
    """
    rows, problems = read_rows(root, known)
    found = []
    for row in rows:
        run = _latest(row)
        if run.pop("torn"):
            problems.append(f"{row['folder']}: the last line of metrics.jsonl is torn")
        found.append(run)
    return found, problems


def _latest(row: Row) -> dict[str, Any]:
    """The survey of one run: its row, and the end of its log."""
    run = RunDir(Path(row["folder"]))
    last, torn = _tail(run.metrics)
    written = run.last_sign()
    age = None if written is None else max(0.0, time.time() - written)
    seconds, done = last.get("seconds"), int(last.get("epoch", -1)) + 1
    state, epochs = row["state"], planned_records(row["keys"])
    elsewhere = row.get("host") not in (None, socket.gethostname())  # its lock may be invisible
    if state == "running" or (state == "interrupted" and elsewhere):
        patience = PATIENCE + 3 * (seconds or 0.0)
        state = "running" if age is not None and age < patience else "stale"
    return {
        "run_id": row["run_id"],
        "state": state,
        "epoch": done,
        "epochs": epochs,
        "train_acc": last.get("train_acc"),
        "test_acc": last.get("test_acc"),
        "images_per_second": last.get("images_per_second"),
        "seconds_left": (epochs - done) * seconds if seconds and state == "running" else None,
        "age": age,
        "host": row.get("host"),
        "folder": row["folder"],
        "error": _raised(run) if state == "failed" else None,
        "torn": torn and state != "running",
    }


def _raised(run: RunDir) -> str | None:
    """The first line of what a failed run raised."""
    exception = (read_json(run.error) or {}).get("exception")
    return exception.partition("\n")[0] if isinstance(exception, str) else None


def _tail(file: Path) -> tuple[dict[str, Any], bool]:
    """The last whole record, with the latest accuracies before it where it has none, and whether
    a torn line follows it."""
    try:
        with open(file, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL))
            content = log.read()
    except OSError:
        return {}, False
    *lines, rest = content.split(b"\n")
    last: dict[str, Any] = {}
    for line in reversed(lines):
        record = _record(line)
        last = {**record, **{key: value for key, value in last.items() if value is not None}}
        if last.get("train_acc") is not None:
            break
    torn = bool(rest) or (bool(lines) and not _record(lines[-1]))
    return last, torn


def _record(line: bytes) -> dict[str, Any]:
    """One line of metrics.jsonl with numbers only, or nothing where it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
        return {}
    return {key: value for key, value in record.items() if isinstance(value, int | float)}


def totals(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Number of runs by state, epochs done and to do, speed and longest time left."""
    running = [run for run in runs if run["state"] == "running"]
    left = [run["seconds_left"] for run in running if run["seconds_left"] is not None]
    todo = [run for run in runs if run["state"] not in FINISHED]
    return {
        "runs": len(runs),
        "states": dict(sorted(Counter(run["state"] for run in runs).items())),
        "epochs_done": sum(run["epoch"] for run in runs),
        "epochs_left": sum((run["epochs"] or 0) - run["epoch"] for run in todo),
        "images_per_second": sum(run["images_per_second"] or 0.0 for run in running),
        "seconds_left": max(left, default=None),
    }


def render(
    root: Path, runs: list[dict[str, Any]], problems: list[str], most: int | None = None
) -> Group:
    """The table, totals, what failed runs raised, and problems; of more than `most` runs, where
    they are given, those that are not finished, and no errors."""
    shown = runs
    if most is not None and len(runs) > most:
        shown = [run for run in runs if run["state"] not in (*FINISHED, "planned")][:most]
    columns = ["run", "state", "epoch", "train acc", "test acc", "images/s", "left", "age", "host"]
    table = Table(*columns, title=str(root), title_justify="left")
    for column in table.columns[2:-1]:
        column.justify = "right"
    for run in shown:
        table.add_row(
            Text(run["run_id"]),
            Text(run["state"], style=STYLES.get(run["state"], "yellow")),
            f"{run['epoch']}/{run['epochs'] if run['epochs'] is not None else '?'}",
            percent(run["train_acc"]),
            percent(run["test_acc"]),
            "-" if run["images_per_second"] is None else f"{run['images_per_second']:,.0f}",
            duration(run["seconds_left"]),
            duration(run["age"]),
            Text(run["host"] or "-"),
        )
    summed = totals(runs)
    states = ", ".join(f"{n} {state}" for state, n in summed["states"].items())
    hidden = f" ({len(runs) - len(shown)} not shown)" if len(shown) < len(runs) else ""
    line = (
        f"{counted(summed['runs'], 'run')}{hidden}: {states}. "
        f"{summed['epochs_done']:,} epochs done, {summed['epochs_left']:,} to go"
    )
    if summed["images_per_second"]:
        line += f"; {summed['images_per_second']:,.0f} images/s"
        line += f"; the longest running run ends in {duration(summed['seconds_left'])}"
    notes = [
        f"{run['run_id']}: failed, {run['error'] or 'no error'}; see {run['folder']}/run.log"
        for run in runs
        if run["state"] == "failed" and most is None
    ]
    notes += [f"Warning: {problem}" for problem in problems]
    return Group(table, *(Text(note) for note in (f"{line}.", *notes)))


def _watch(root: Path, known: dict[str, Row], interval: float) -> None:
    console = _console()
    try:
        with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while True:
                runs, problems = survey(root, known)
                if all(run["state"] in SETTLED for run in runs):
                    break
                live.update(render(root, runs, problems, console.height - 8), refresh=True)
                time.sleep(interval)
    except KeyboardInterrupt:
        pass
    console.print(render(root, *survey(root, known)))


def _console() -> Console:
    """Wide enough never to cut a row where the output is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=240)


def duration(seconds: float | None) -> str:
    """`3 s`, `12 min`, `5.1 h` or `2.0 d`."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder of runs")
    parser.add_argument("--watch", action="store_true", help="show it again and again")
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between (default: 2)")
    parser.add_argument("--json", action="store_true", help="the same for scripts")
    return parser


if __name__ == "__main__":
    with until_nobody_reads():
        main()
