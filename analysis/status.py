"""`python -m analysis.status DIR [--watch] [--json]`: show what each run is doing."""

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

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from randlabels.console import counted, no_folder, until_nobody_reads
from randlabels.store.rundir import FINISHED, RunDir, planned_records, read_json

from . import rows
from .formats import percent

STALE_AFTER_SECONDS = 120.0
"""A run is stale after this time without a heartbeat, plus three epochs. Heartbeats come every ten
seconds."""

IDLE_SECONDS = 60.0
"""A launch has ended if runs are interrupted and none is running for this time."""

TAIL_BYTES = 16384
"""Bytes read from the end of metrics.jsonl: a few dozen records."""

SETTLED = (*FINISHED, "failed", "foreign", "damaged")
"""States that only another launch can change."""

STYLES = {"done": "green", "running": "cyan", "failed": "red", "damaged": "red"}


def main(arguments: list[str] | None = None) -> None:
    """Show the table once, or repeatedly until no run has anything to do."""
    program = f"python -m {__package__}.status"
    parser = argparse.ArgumentParser(program, description=__doc__)
    add = parser.add_argument
    add("dir", type=Path, metavar="DIR", help="folder of runs")
    add("--watch", action="store_true", help="show it until no run has anything to do")
    add("--interval", type=float, default=2.0, help="seconds between two looks (default: 2)")
    add("--json", action="store_true", help="print JSON for scripts")
    options = parser.parse_args(arguments)
    if not options.dir.is_dir():
        sys.exit(f"Error: {no_folder(options.dir)}")
    runs, problems = survey(options.dir)
    if not runs and not problems:
        sys.exit(f"Error: {options.dir} holds no run; give a folder that a launch wrote to")
    if options.json:
        print(json.dumps({"runs": runs, "totals": totals(runs), "problems": problems}, indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)  # every row in one line
    if options.watch:
        runs, problems = _watch(console, options.dir, options.interval)
    console.print(render(options.dir, runs, problems, console.width))


def survey(root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what is known of each run at or under `root`, and a sentence for each problem.

    Keys: run_id, state, epoch and epochs (counts), train_acc and test_acc (0..1, latest),
    images_per_second, seconds_per_epoch, seconds_left, age (seconds since the last write), host,
    folder, error (the first line of what a failed run raised); null where unknown.
    """
    listed, problems = rows.read(root)
    found = []
    for row in listed:
        run, torn = _survey_run(row)
        if torn:
            problems.append(f"{row['folder']}: the last line of metrics.jsonl is torn")
        found.append(run)
    return found, problems


def _survey_run(row: rows.Row) -> tuple[dict[str, Any], bool]:
    """Return the survey of one run, from its row and its log, and whether the log is torn."""
    run = RunDir(Path(row["folder"]))
    last, torn = _read_tail(run.metrics)
    written = run.last_sign()
    age = None if written is None else max(0.0, time.time() - written)
    seconds, done = last.get("seconds"), int(last.get("epoch", -1)) + 1
    state, epochs, error = row["state"], planned_records(row["keys"]), None
    elsewhere = row.get("host") not in (None, socket.gethostname())  # its lock may be invisible
    if state == "running" or (state == "interrupted" and elsewhere):
        patience = STALE_AFTER_SECONDS + 3 * (seconds or 0.0)
        state = "running" if age is not None and age < patience else "stale"
    if state == "failed":
        error = str((read_json(run.error) or {}).get("exception")).partition("\n")[0]
    survey = {
        "run_id": row["run_id"],
        "state": state,
        "epoch": done,
        "epochs": epochs,
        "train_acc": last.get("train_acc"),
        "test_acc": last.get("test_acc"),
        "images_per_second": last.get("images_per_second"),
        "seconds_per_epoch": seconds,
        "seconds_left": (epochs - done) * seconds if seconds and state == "running" else None,
        "age": age,
        "host": row.get("host"),
        "folder": row["folder"],
        "error": error,
    }
    return survey, torn and state != "running"


def _read_tail(file: Path) -> tuple[dict[str, Any], bool]:
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


def totals(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the number of runs by state, epochs done and to do, speed and time left.

    `seconds_left` is for all unfinished runs, as many at once as run now; null if none is running.
    Epochs of a run without records are taken to be as long as those of the others.
    """
    running = [run for run in runs if run["state"] == "running"]
    todo = [run for run in runs if run["state"] not in SETTLED]
    known = [run["seconds_per_epoch"] for run in runs if run["seconds_per_epoch"]]
    usual = sum(known) / max(1, len(known))
    left = [(run["epochs"] or 0) - run["epoch"] for run in todo]
    each = [run["seconds_per_epoch"] or usual for run in todo]
    seconds = sum(n * length for n, length in zip(left, each, strict=True))
    return {
        "runs": len(runs),
        "states": dict(sorted(Counter(run["state"] for run in runs).items())),
        "epochs_done": sum(run["epoch"] for run in runs),
        "epochs_left": sum(left),
        "images_per_second": sum(run["images_per_second"] or 0.0 for run in running),
        "seconds_left": seconds / len(running) if running and known else None,
    }


def render(
    root: Path,
    runs: list[dict[str, Any]],
    problems: list[str],
    width: int,
    max_rows: int | None = None,
) -> Group:
    """Return the table with as many columns as fit `width`, the totals, errors and problems.

    Of more than `max_rows` runs, only those that are not finished are shown, without errors.
    """
    shown = runs
    if max_rows is not None and len(runs) > max_rows:
        shown = [run for run in runs if run["state"] not in (*FINISHED, "planned")][:max_rows]
    columns = {  # the most important first
        "run": [run["run_id"] for run in shown],
        "state": [run["state"] for run in shown],
        "epoch": [f"{run['epoch']}/{run['epochs'] or '?'}" for run in shown],
        "test acc": [percent(run["test_acc"]) for run in shown],
        "train acc": [percent(run["train_acc"]) for run in shown],
        "left": [duration(run["seconds_left"]) for run in shown],
        "age": [duration(run["age"]) for run in shown],
        "images/s": [f"{run['images_per_second'] or 0:,.0f}" for run in shown],
        "host": [run["host"] or "-" for run in shown],
    }
    table = Table(title=str(root), title_justify="left", box=SIMPLE_HEAD)
    used = 2
    for name, cells in columns.items():
        used += max(map(len, [name, *cells])) + 3  # with padding and a divider
        if name in ("run", "state", "epoch") or used <= width:
            left = name in ("run", "state", "host")
            table.add_column(name, justify="left" if left else "right", overflow="fold")
    for texts in zip(*columns.values(), strict=True):
        row = [Text(text) for text in texts[: len(table.columns)]]
        row[1].stylize(STYLES.get(texts[1], "yellow"))
        table.add_row(*row)
    failed = [run for run in runs if run["state"] == "failed" and max_rows is None]
    notes = [f"{r['run_id']}: failed, {r['error']}; see {r['folder']}/run.log" for r in failed]
    notes += [f"Warning: {problem}" for problem in problems]
    return Group(table, *map(Text, [summary(runs, len(runs) - len(shown)), *notes]))


def summary(runs: list[dict[str, Any]], hidden: int = 0) -> str:
    """Return a sentence on all runs: states, epochs, speed, time left."""
    summed = totals(runs)
    states = ", ".join(f"{n} {state}" for state, n in summed["states"].items())
    line = f"{counted(len(runs), 'run')}{f' ({hidden} not shown)' if hidden else ''}: {states}. "
    line += f"{summed['epochs_done']:,} epochs done, {summed['epochs_left']:,} to go"
    if summed["images_per_second"]:
        line += f"; {summed['images_per_second']:,.0f} images/s"
    if summed["seconds_left"] is not None:
        line += f"; about {duration(summed['seconds_left'])} left"
    return f"{line}."


def _watch(console: Console, root: Path, interval: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Show the table until no run has anything to do, and return a last survey.

    If no terminal shows it, print the totals whenever they change.
    """
    printed, active = "", time.monotonic()
    try:
        with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while True:
                runs, problems = survey(root)
                states = {run["state"] for run in runs}
                if "running" in states or not states & {"interrupted", "stale"}:
                    active = time.monotonic()
                if states <= set(SETTLED) or time.monotonic() - active > IDLE_SECONDS:
                    break
                if console.is_terminal:
                    table = render(root, runs, problems, console.width, console.height - 8)
                    live.update(table, refresh=True)
                elif (line := summary(runs)) != printed:
                    print(printed := line, flush=True)
                time.sleep(interval)
    except KeyboardInterrupt:
        pass
    return survey(root)


def duration(seconds: float | None) -> str:
    """Return a time as `3 s`, `12 min`, `5.1 h` or `2.0 d`."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


if __name__ == "__main__":
    with until_nobody_reads():
        main()
