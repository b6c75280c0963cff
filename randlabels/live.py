"""The progress of many runs on the screen: a live display, or lines where there is no terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .console import counted
from .store.progress import Survey, totals

LOOK_SECONDS = 1.0  # between two looks at the folders of a sweep's runs

REPORT_SECONDS = 60.0  # between two lines of progress

WAITING = ("planned", "interrupted")

STYLES = {"done": "green", "running": "cyan", "failed": "red", "damaged": "red"}
"""Colours of states; the others are yellow."""


@contextmanager
def showing(look: Callable[[], list[Survey]], *, shown: bool) -> Iterator[None]:
    """Show the progress of runs in a thread, with one more look at the end.

    An error of the display ends the display alone.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_show_until, args=(look, ended), daemon=True)
    if shown:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if shown:
            thread.join()


def _show_until(look: Callable[[], list[Survey]], ended: threading.Event) -> None:
    try:
        with display() as show:
            while not ended.wait(LOOK_SECONDS):
                show(look())
            show(look())
    except BrokenPipeError:  # the output's reader has closed it
        pass
    except Exception as error:
        print(f"The display ended ({type(error).__name__}: {error}).", file=sys.stderr)


@contextmanager
def display(
    known: Sequence[Survey] = (), console: Console | None = None
) -> Iterator[Callable[[Sequence[Survey]], None]]:
    """Give a function to call with the surveys of all runs after each look.

    On a terminal it draws a line for each run at work, counts and a bar; failures stay above them.
    Elsewhere it prints a line when a run begins and ends, and the totals once a minute.

    known: surveys whose states are not news.
    """
    console = console or Console()
    states = {run["folder"]: run["state"] for run in known}
    reported = -REPORT_SECONDS if known else time.monotonic()

    def changes(runs: Sequence[Survey]) -> Iterator[Survey]:
        for run in runs:
            before = states.get(run["folder"], "planned")
            states[run["folder"]] = run["state"]
            if run["state"] not in (before, "planned"):
                yield run

    def write(runs: Sequence[Survey]) -> None:
        nonlocal reported
        for run in changes(runs):
            print(_event(run), flush=True)
        if time.monotonic() - reported >= REPORT_SECONDS:
            print(summary(runs), flush=True)
            reported = time.monotonic()

    if not console.is_interactive:
        yield write
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def draw(runs: Sequence[Survey]) -> None:
            for run in changes(runs):
                if run["state"] not in ("running", "done", *WAITING):
                    console.print(Text(_event(run), STYLES.get(run["state"], "yellow")))
            live.update(render(runs, console.width, console.height), refresh=True)

        yield draw


def _event(run: Survey) -> str:
    """Return a line on a run whose state has changed."""
    if run["state"] == "running":
        return f"{run['run_id']}: begins"
    if run["state"] == "failed":
        return failure(run)
    accuracies = f"train acc {percent(run['train_acc'])}, test acc {percent(run['test_acc'])}"
    return f"{run['run_id']}: {run['state']}, {counted(run['epoch'], 'epoch')}, {accuracies}"


def failure(run: Survey) -> str:
    """Return a line on a failed run."""
    return f"{run['run_id']}: failed, {run['error']}; see {run['folder']}/run.log"


def render(runs: Sequence[Survey], width: int, height: int) -> Group:
    """Return a line for each run at work, a bar with the time left, and the counts.

    They fill at most `height` lines of `width` columns.
    """
    at_work = [run for run in runs if run["state"] in ("running", "stale")]
    shown = at_work[: max(1, height - 5)]
    columns = {
        "model": [str(run["keys"].get("model")) for run in shown],
        "corrupt": [f"{run['keys'].get('corrupt'):g}" for run in shown],
        "seed": [str(run["keys"].get("seed")) for run in shown],
        "epoch": [f"{run['epoch']}/{run['epochs'] or '?'}" for run in shown],
        "train": [percent(run["train_acc"]) for run in shown],
        "test": [percent(run["test_acc"]) for run in shown],
        "left": [duration(run["seconds_left"]) for run in shown],
    }
    sizes = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}
    room = width - sum(sizes.values()) - 2 * len(sizes)  # for the first column and other keys
    others = _differing(runs, shown) if room > 8 else []
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in columns:
        size = max(3, sizes[name] + min(0, room)) if name == "model" else None
        justify: Any = "left" if name == "model" else "right"
        table.add_column(name, justify=justify, no_wrap=True, max_width=size)
    if any(others):
        table.add_column("", no_wrap=True, max_width=room, style="dim")
        columns["others"] = others
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, row))
    hidden = (
        [Text(f"and {len(at_work) - len(shown)} more", "dim")] if len(at_work) > len(shown) else []
    )
    return Group(table, *hidden, _bar(runs, width), _counts(runs))


def _bar(runs: Sequence[Survey], width: int) -> Table:
    summed = totals(runs)
    done, left = summed["epochs_done"], summed["epochs_left"]
    seconds = summed["seconds_left"]
    bar = ProgressBar(max(1, done + left), done, width=max(10, min(40, width - 26)))
    line = Table.grid(padding=(0, 2, 0, 0))
    text = "" if seconds is None else f"about {duration(seconds)} left"
    line.add_row(bar, f"{done / max(1, done + left):.0%}", text)
    return line


def _counts(runs: Sequence[Survey]) -> Text:
    counts = Counter("waiting" if run["state"] in WAITING else run["state"] for run in runs)
    text = Text(no_wrap=True, overflow="ellipsis")
    for state in ("done", *sorted(counts.keys() - {"done", "running", "waiting"}), "running"):
        if number := counts[state]:
            text.append(f"{number} {state}", STYLES.get(state, "yellow")).append(", ")
    return text.append(f"{counts['waiting']} waiting")


def _differing(runs: Sequence[Survey], shown: Sequence[Survey]) -> list[str]:
    """Return for each shown run the other keys in which runs differ, such as `lr=0.1 depth=10`."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, value in run["keys"].items():
            values.setdefault(key, set()).add(repr(value))
    names = [
        key for key in values if len(values[key]) > 1 and key not in ("model", "corrupt", "seed")
    ]
    return [
        " ".join(
            f"{key.rpartition('.')[2]}={run['keys'][key]}" for key in names if key in run["keys"]
        )
        for run in shown
    ]


def summary(runs: Sequence[Survey]) -> str:
    """Return a sentence on all runs: states, epochs, speed, time left."""
    summed = totals(runs)
    states = ", ".join(f"{n} {state}" for state, n in summed["states"].items())
    line = f"{counted(len(runs), 'run')}: {states}. "
    line += f"{summed['epochs_done']:,} epochs done, {summed['epochs_left']:,} to go"
    if summed["images_per_second"]:
        line += f"; {summed['images_per_second']:,.0f} images/s"
    if summed["seconds_left"] is not None:
        line += f"; about {duration(summed['seconds_left'])} left"
    return f"{line}."


def percent(fraction: float | None) -> str:
    """Return a fraction in % with two decimals, or `-` if it is missing."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def duration(seconds: float | None) -> str:
    """Return a time as `3 s`, `12 min`, `5.1 h` or `2.0 d`."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
