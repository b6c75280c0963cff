"""`python -m analysis.status DIR [--watch] [--json]`: show what each run is doing."""

import argparse
import contextlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from randlabels.console import ignore_closed_pipe
from randlabels.live import LOOK_SECONDS, STYLES, display, duration, failure, percent, summary
from randlabels.store import progress
from randlabels.store.progress import SETTLED, Survey, totals
from randlabels.store.rundir import RunDir

from . import rows

IDLE_SECONDS = 60.0  # a launch has ended if runs are interrupted and none is running for this time


def main(arguments: list[str] | None = None) -> None:
    """Show the table once, or repeatedly until no run has anything to do."""
    parser = argparse.ArgumentParser(f"python -m {__package__}.status", description=__doc__)
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder of runs")
    parser.add_argument("--watch", action="store_true", help="update until all runs have ended")
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    options = parser.parse_args(arguments)
    try:
        if options.watch and not options.json:
            _watch(options.dir)
        runs, problems = survey(options.dir)
    except FileNotFoundError as error:
        sys.exit(f"Error: {error}")
    if options.json:
        print(json.dumps({"runs": runs, "totals": totals(runs), "problems": problems}, indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)  # every row in one line
    console.print(render(options.dir, runs, problems, console.width), crop=False)


def survey(root: Path) -> tuple[list[Survey], list[str]]:
    """Return what is known of each run at or under `root`, and a sentence for each problem.

    To the keys of a `Survey` comes `command`, which repeats the run; null if its plan is missing.
    FileNotFoundError as `rows.read` raises it.
    """
    listed, problems = rows.read(root)
    found = []
    for row in listed:
        run = progress.survey(RunDir(Path(row["folder"])), row["keys"], row["state"])
        if run.pop("torn"):
            problems.append(f"{row['folder']}: the last line of metrics.jsonl is torn")
        command = None
        if (overrides := row.get("overrides")) is not None:
            kept = [line for line in overrides if not line.startswith("force=")]
            # A sweep of one, so that it computes as in its sweep.
            command = shlex.join(["python", "-m", "randlabels.run", "-m", *kept])
        found.append({**run, "command": command})
    return found, problems


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


def _watch(root: Path) -> None:
    active = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), display() as show:
        while True:
            began = time.monotonic()
            runs, _ = survey(root)
            states = {run["state"] for run in runs}
            if "running" in states or not states & {"interrupted", "stale"}:
                active = began
            if states <= set(SETTLED) or began - active > IDLE_SECONDS:
                break
            show(runs)
            # At most a tenth of a processor, also for thousands of runs.
            time.sleep(max(LOOK_SECONDS, 9 * (time.monotonic() - began)))


if __name__ == "__main__":
    with ignore_closed_pipe():
        main()
