"""`python -m analysis.status DIR [--watch] [--json]`: show what each run is doing."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from randlabels.console import no_folder, until_nobody_reads
from randlabels.live import (
    LOOK_SECONDS,
    STYLES,
    display,
    duration,
    failure,
    percent,
    summary,
)
from randlabels.store import progress
from randlabels.store.progress import SETTLED, Survey, Tracker, file_version, totals
from randlabels.store.rundir import RunDir, read_plan

from . import rows

IDLE_SECONDS = 60.0
"""A launch has ended if runs are interrupted and none is running for this time."""


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
        _watch(options.dir, max(options.interval, LOOK_SECONDS))
        runs, problems = survey(options.dir)
    console.print(render(options.dir, runs, problems, console.width), crop=False)


def survey(root: Path) -> tuple[list[Survey], list[str]]:
    """Return what is known of each run at or under `root`, and a sentence for each problem.

    To the keys of a `Survey` comes `command`, which repeats the run; null if its plan is missing.
    """
    listed, problems = rows.read(root)

    @cache
    def plan_of(folder: Path) -> dict[str, dict[str, Any]]:
        with contextlib.suppress(OSError):  # which `rows.read` has reported
            return read_plan(folder)
        return {}

    found = []
    for row in listed:
        run, torn = progress.survey(RunDir(Path(row["folder"])), row["keys"], row["state"])
        if torn:
            problems.append(f"{row['folder']}: the last line of metrics.jsonl is torn")
        entry = plan_of(Path(row["folder"]).parent).get(row["run_id"], {})
        found.append({**run, "command": _command(entry.get("overrides"))})
    return found, problems


def _command(overrides: Sequence[str] | None) -> str | None:
    """Return the command of one run: a sweep of one, so that it computes as in its sweep."""
    if overrides is None:
        return None
    kept = [line for line in overrides if not line.startswith("force=")]
    return shlex.join(["python", "-m", "randlabels.run", "-m", *kept])


def render(root: Path, runs: Sequence[Survey], problems: Sequence[str], width: int) -> Group:
    """Return the table with as many columns as fit `width`, the totals, errors and problems."""
    columns = {  # the most important first
        "run": [run["run_id"] for run in runs],
        "state": [run["state"] for run in runs],
        "epoch": [f"{run['epoch']}/{run['epochs'] or '?'}" for run in runs],
        "test acc": [percent(run["test_acc"]) for run in runs],
        "train acc": [percent(run["train_acc"]) for run in runs],
        "left": [duration(run["seconds_left"]) for run in runs],
        "age": [duration(run["age"]) for run in runs],
        "images/s": [f"{run['images_per_second'] or 0:,.0f}" for run in runs],
        "host": [run["host"] or "-" for run in runs],
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
    notes = []
    for run in runs:
        failed = run["state"] == "failed"
        notes += [failure(run)] * failed
        if run["command"] and (failed or len(runs) == 1):
            notes.append(f"Repeat it: {run['command']}")
    notes += [f"Warning: {problem}" for problem in problems]
    lines = (Text(line, no_wrap=True, overflow="ignore") for line in notes)  # whole, to be copied
    return Group(table, Text(summary(runs)), *lines)


def _watch(root: Path, interval: float) -> None:
    """Show the progress until no run has anything to do."""
    active = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), display(survey(root)[0]) as show:
        for runs in _looks(root):
            states = {run["state"] for run in runs}
            if "running" in states or not states & {"interrupted", "stale"}:
                active = time.monotonic()
            if states <= set(SETTLED) or time.monotonic() - active > IDLE_SECONDS:
                break
            show(runs)
            time.sleep(interval)


def _looks(root: Path) -> Iterator[list[Survey]]:
    """Yield the survey of all runs. The runs are listed again when a folder of theirs changes."""
    changed: list[int] = []
    folders = {root}
    while True:
        now = [file_version(folder)[0] for folder in sorted(folders)]  # 0 once it is gone
        if changed != now:
            found, _ = survey(root)
            folders |= {Path(run["folder"]).parent for run in found}
            folders |= {path for path in root.glob("*") if path.is_dir()}
            lost = [run for run in found if run["state"] in ("foreign", "damaged")]
            others = [
                (RunDir(Path(run["folder"])), run["keys"]) for run in found if run not in lost
            ]
            tracker, changed = Tracker(others, launched=False), now
        yield lost + tracker.look()


if __name__ == "__main__":
    with until_nobody_reads():
        main()
