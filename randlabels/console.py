"""Output for people: log lines, the progress bar of a single run, tables."""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

log = logging.getLogger("randlabels")
log.addHandler(logging.NullHandler())  # messages outside `logging_to` are dropped

NUMBER = re.compile(r"[-+\d][-+\d.,e %±]*|null")  # in a table; `-` is a missing one


class _Screen(logging.StreamHandler[TextIO]):
    """Stop printing once the output pipe is closed (`| head`); the run and its log go on."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            log.removeHandler(self)
        else:
            super().handleError(record)


@contextmanager
def logging_to(*files: Path, prefix: str | None = "", quiet: bool = False) -> Iterator[None]:
    """Send messages to all `files` and, with `prefix`, to standard output; if `quiet`, warnings."""
    screen = _Screen(sys.stdout)
    screen.setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    screen.setLevel(logging.WARNING if quiet else logging.INFO)
    logs = [logging.FileHandler(file, encoding="utf-8") for file in files]
    log.setLevel(logging.INFO)
    log.propagate = False
    earlier, log.handlers = log.handlers, [*logs, *([] if prefix is None else [screen])]
    try:
        yield
    finally:
        log.handlers = earlier
        for handler in logs:
            handler.close()


@cache
def warn_once(sentence: str) -> None:
    """Print a warning on standard output, the first time that this process has it."""
    with logging_to():
        log.warning("%s", sentence)


@contextmanager
def ignore_closed_pipe() -> Iterator[None]:
    """Let the reader of a command's last output close the pipe early (`| head`)."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as end:
        if BrokenPipeError not in (type(end), type(end.__context__)):  # rich exits where it met one
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


@contextmanager
def progress_bar(
    steps: float, done: int, *, shown: bool
) -> Iterator[tuple[Callable[..., None], Callable[[str], None]]]:
    """Show a bar of `steps` steps on standard error; give functions to advance and caption it."""
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = BarColumn(20), TaskProgressColumn(), TimeRemainingColumn()
    caption = TextColumn("{task.description}", table_column=rest)
    console = Console(stderr=True)
    with Progress(*columns, caption, console=console, expand=True, disable=not shown) as bar:
        task = bar.add_task("", total=steps, completed=done)
        yield (
            lambda amount=1: bar.advance(task, amount),
            lambda caption: bar.update(task, description=caption),
        )


def pluralize(number: int, thing: str) -> str:
    """Return a number with its noun, such as `1 run` or `2 runs`."""
    return f"{number} {thing}{'s' * (number != 1)}"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, columns of numbers to the right, and cut nothing.

    A file or a pipe gets every row in a line; a terminal that is too narrow gets folded cells.
    """
    cells = list(zip(columns, *rows, strict=True))
    width = sum(max(map(len, column)) + 3 for column in cells) + 1  # with the frame
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(240, width))
    table = Table(title=title, title_justify="left")
    for heading, *texts in cells:
        if width > console.width:
            heading = heading.replace(" ", "\n").replace(".", ".\n")
        numbers = all(map(NUMBER.fullmatch, texts))
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
