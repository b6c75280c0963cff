"""The life of a worker process of the launcher `packed`."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock, Thread

from ..config import Config
from ..machine.stopping import follow

Task = tuple[Config, bool]
"""What goes to a worker: a run, and whether others may be executed beside it."""


@dataclass(frozen=True)
class Answer:
    """How the execution of a run ended, as its worker says.

    path: its folder. error: what went wrong beyond its error.json. again: it had too little memory
    beside others.
    """

    path: Path
    error: str | None = None
    again: bool = False


def work(line: Connection, slot: int, size: int, concurrency: int, launch: str) -> None:
    """The life of a worker: execute each run that comes, until the parent ends or says so.

    It follows `launch`, the content of `stopping.LAUNCH` in its parent. The main thread, in which
    Python handles signals, executes the runs itself if there is one at a time.
    """
    from torch import OutOfMemoryError

    from ..execute import execute
    from ..journal import show_unforeseen

    reading, saying = Lock(), Lock()

    def received() -> Iterator[Task]:
        """The runs that come until the parent has no more, or has died."""
        with contextlib.suppress(EOFError):
            while True:
                with reading:
                    task = line.recv()
                yield task

    def execute_all() -> None:
        for config, beside in received():
            error, again = None, False
            try:
                execute(config, job=slot)
            except (Exception, SystemExit) as raised:  # before it had files; the others go on
                error = f"{type(raised).__name__}: {raised}"
                again = beside and isinstance(raised, OutOfMemoryError)
                if not again:
                    show_unforeseen(raised)
            with saying, contextlib.suppress(OSError):  # of a parent that has died
                line.send(Answer(config.run.path, error, again))

    def execute_all_or_die() -> None:
        """The end of one thread alone would be heard of by nobody."""
        try:
            execute_all()
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    follow(launch)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _pin(slot, size)
    if concurrency == 1:
        execute_all()
        return
    threads = [Thread(target=execute_all_or_die, daemon=True) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _pin(slot: int, size: int) -> None:
    """Keep to cores of one's own, where all workers together fill the machine."""
    from ..machine.resources import cpu_cores

    mine = cpu_cores()
    each = len(mine) // size
    if hasattr(os, "sched_setaffinity") and size * each == len(mine):
        os.sched_setaffinity(0, mine[slot * each : (slot + 1) * each])
