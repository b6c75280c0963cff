"""A worker process of the launcher `packed`."""

from __future__ import annotations

import contextlib
import os
import signal
from multiprocessing.connection import Connection

from ..config import parse
from ..machine.stopping import follow


def work(connection: Connection, slot: int, size: int, launch: str) -> None:
    """Execute each run whose config tree arrives, until the parent closes the connection or ends.

    The answer to each is None, or an error that the run's error.json does not hold.

    slot: number of this worker, which chooses its GPU and cores. size: number of all workers.
    launch: value of `stopping.LAUNCH` in the parent.
    """
    from ..execute import execute
    from ..journal import show_unforeseen

    follow(launch)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    pin_to_cores(slot, size)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has no more runs, or died
        while True:
            tree = connection.recv()
            error = None
            try:
                execute(parse(tree), job=slot)
            except (Exception, SystemExit) as raised:
                error = f"{type(raised).__name__}: {raised}"
                show_unforeseen(raised)
            connection.send(error)


def pin_to_cores(slot: int, size: int) -> None:
    """Keep this process on its share of the cores, if the workers divide them evenly."""
    from ..machine.resources import cpu_cores

    cores = cpu_cores()
    share = len(cores) // size
    if hasattr(os, "sched_setaffinity") and size * share == len(cores):
        os.sched_setaffinity(0, cores[slot * share : (slot + 1) * share])
