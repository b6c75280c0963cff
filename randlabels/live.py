"""The progress of many runs on the screen: drawn on a terminal, else in lines."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .console import pluralize
from .store.progress import Survey, differing_keys, totals

LOOK_SECONDS = 1.0  # between two looks at the folders of a sweep's runs
REPORT_SECONDS = 60.0  # between two lines of progress
WAITING = ("planned", "interrupted")
# Colours of states; the others are yellow.
STYLES = {"done": "green", "running": "cyan", "failed": "red", "damaged": "red"}


@contextmanager
def showing(look: Callable[[], list[Survey]]) -> Iterator[None]:
    """Show the progress of runs in a thread. An error of the display ends the display alone."""
    begun, ended = threading.Event(), threading.Event()

    def show_until_ended() -> None:
        pause = LOOK_SECONDS
        try:
            with display(at_once=False) as show:
                show(look())
                begun.set()
                while not ended.wait(pause):
                    began = time.monotonic()
                    show(look())
                    pause = max(LOOK_SECONDS, 9 * (time.monotonic() - began))
                show(look())
        except BrokenPipeError:  # the output's reader has closed it
            pass
        except Exception as error:
            print(f"The display ended ({type(error).__name__}: {error}).", file=sys.stderr)
        finally:
            begun.set()

    thread = threading.Thread(target=show_until_ended, daemon=True)
    thread.start()
    begun.wait()  # so that no run begins before the first look
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def display(
    console: Console | None = None, *, at_once: bool = True
) -> Iterator[Callable[[Sequence[Survey]], None]]:
    """Give a function to call with what each look of a `Tracker` returns.

    On a terminal it draws a line for each run at work, counts and a bar; failures stay above them.
    Elsewhere it prints a line when a run begins and ends after the first look, and the totals once
    a minute, or also `at_once`.
    """
    console = console or Console()
    live = Live(console=console, auto_refresh=False, transient=True)
    states: dict[str, str] = {}
    reported = -REPORT_SECONDS if at_once else time.monotonic()

    def show(runs: Sequence[Survey]) -> None:
        nonlocal reported
        now = {run["folder"]: run["state"] for run in runs}
        before = states or now  # nothing that the first look finds is news
        news = [run for run in runs if run["state"] not in ("planned", before.get(run["folder"]))]
        states.update(now)
        if console.is_interactive:
            for run in news:
                if run["state"] not in ("running", "done", *WAITING):
                    style = STYLES.get(run["state"], "yellow")
                    console.print(Text(_event(run), style), soft_wrap=True)  # whole, to be copied
            live.update(render(runs, *console.size), refresh=True)
            return
        for run in news:
            print(_event(run), flush=True)
        if time.monotonic() - reported >= REPORT_SECONDS:
            print(summary(runs), flush=True)
            reported = time.monotonic()

    with live if console.is_interactive else nullcontext():
        yield show


def _event(run: Survey) -> str:
    if run["state"] == "running":
        return f"{run['run_id']}: begins"
    if run["state"] == "failed":
        return failure(run)
    accuracies = f"train acc {percent(run['train_acc'])}, test acc {percent(run['test_acc'])}"
    return f"{run['run_id']}: {run['state']}, {pluralize(run['epoch'], 'epoch')}, {accuracies}"


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
        "corrupt": [f"{run['keys']['corrupt']:g}" for run in shown],
        "seed": [str(run["keys"]["seed"]) for run in shown],
        "epoch": [f"{run['epoch']}/{run['epochs'] or '?'}" for run in shown],
        " train": [percent(run["train_acc"]) for run in shown],
        "  test": [percent(run["test_acc"]) for run in shown],
        "  left": [duration(run["seconds_left"]) for run in shown],
    }
    room = width - sum(max(map(len, [name, *cells])) + 2 for name, cells in columns.items())
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("model", no_wrap=True, max_width=max(5, room))
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in zip(_label_runs(runs, shown), *columns.values(), strict=True):
        table.add_row(*map(Text, row))
    if hidden := len(at_work) - len(shown):
        table.add_row(f"and {hidden} more")

    summed = totals(runs)
    done, every = summed["epochs_done"], summed["epochs_done"] + summed["epochs_left"]
    left = summed["seconds_left"]
    bar = Table.grid(padding=(0, 2, 0, 0))
    bar.add_row(
        ProgressBar(max(1, every), done, width=max(10, min(40, width - 26))),
        f"{done / max(1, every):.0%}",
        "" if left is None else f"about {duration(left)} left",
    )
    counts = Counter("waiting" if run["state"] in WAITING else run["state"] for run in runs)
    parts = [Text(f"{n} {s}", STYLES.get(s, "yellow")) for s, n in sorted(counts.items())]
    return Group(table if shown else "", bar, Text(", ").join(parts))


def _label_runs(runs: Sequence[Survey], shown: Sequence[Survey]) -> list[str]:
    """Return labels such as `mlp lr=0.1`: models with the keys that differ and have no column."""
    differing = differing_keys(run["keys"] for run in runs)
    named = [key for key in differing if key not in ("model", "corrupt", "seed")]
    labels = []
    for keys in (run["keys"] for run in shown):
        others = (f"{key.rpartition('.')[2]}={keys[key]}" for key in named if key in keys)
        labels.append(" ".join([keys["model"], *others]))
    return labels


def summary(runs: Sequence[Survey]) -> str:
    """Return a sentence on all runs: states, epochs, speed, time left."""
    summed = totals(runs)
    states = ", ".join(f"{n} {state}" for state, n in summed["states"].items())
    line = f"{pluralize(len(runs), 'run')}: {states}. "
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
