"""The launcher `packed`: persistent worker processes that execute many runs each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import ClassVar

from ..config import Config, parse
from ..machine.stopping import LAUNCH, follow, launching, stop_launch, uninterrupted
from .launcher import Errors, Launcher, PlannedRun, Until, count_gpus, solve_exact

PRELOADED = ["randlabels.execute", "randlabels.launchers.packed"]
"""Imported once, with torch, by the process that all workers are forked from."""

SHUTDOWN_SECONDS = 10.0  # after which a worker is killed


@dataclass
class Packed(Launcher):
    """`hydra/launcher=packed`: workers import torch once and load each data set once.

    Each run goes to the next free worker; runs of one data set follow each other. When a worker
    dies, its current run fails, and another worker replaces it.

    workers: number of worker processes, for each GPU where there is one. `auto` means one per GPU;
        on a CPU, as many as the cores hold with the runs' `threads`.

    Raises:
        ValueError: `workers` is neither `auto` nor a number of at least 1.
    """

    name: ClassVar[str] = "packed"

    workers: str = "auto"

    def __post_init__(self) -> None:
        if self.workers != "auto" and not (self.workers.isdecimal() and int(self.workers) > 0):
            raise ValueError(
                f"hydra.launcher.workers={self.workers} must be auto or a number of at least 1"
            )

    def check(self, runs: Sequence[PlannedRun]) -> None:
        """Start the process that workers are forked from, so that its imports run concurrently.

        SIGINT is blocked there until a worker follows this process: a Ctrl-C during the imports
        would end them with a traceback.
        """
        forkserver.set_forkserver_preload(PRELOADED)
        resource_tracker.ensure_running()  # as forkserver does; it leaves SIGINT unblocked
        with uninterrupted():
            forkserver.ensure_running()

    def start(self, runs: Sequence[PlannedRun], until: Until) -> Errors:
        """Execute the runs; no worker outlives this call.

        Once `until` returns a reason, no other run starts, and the workers, which follow this
        process, end theirs at a safe point.
        """
        with launching():
            waiting = deque(by_data([run.config for run in solve_exact(runs)]))
            size = min(self.count_workers(waiting), len(waiting))
            errors: Errors = {}
            context = multiprocessing.get_context("forkserver")
            workers: list[Worker] = []
            try:
                for slot in range(size):
                    workers.append(Worker.fork(context, slot, size))
                    workers[slot].give(waiting.popleft())
                while busy := [slot for slot, worker in enumerate(workers) if worker.config]:
                    wait([workers[slot].connection for slot in busy])
                    for slot in busy:
                        if not workers[slot].connection.poll():
                            continue
                        errors |= (failed := workers[slot].answer())
                        if failed and runs[0].config.on_failure == "stop":
                            stop_launch()
                        if waiting and not until():
                            if workers[slot].process.exitcode is not None:
                                workers[slot] = Worker.fork(context, slot, size)
                            workers[slot].give(waiting.popleft())
            finally:
                for worker in workers:
                    worker.connection.close()  # which ends a worker that waits for its next run
                for worker in workers:
                    worker.process.join(SHUTDOWN_SECONDS)
                    worker.process.kill()
                    worker.process.join()
        return errors

    def count_workers(self, configs: Sequence[Config]) -> int:
        from ..machine.resources import cpu_count

        gpus = count_gpus(configs)
        if self.workers != "auto":
            return int(self.workers) * max(1, gpus)
        if gpus:
            return gpus
        threads = [int(config.threads) for config in configs if config.threads != "auto"]
        return max(1, cpu_count() // max(threads, default=1))


@dataclass
class Worker:
    """A worker process as its parent sees it.

    config: the run that it executes; None while it waits.
    """

    process: ForkServerProcess
    connection: Connection
    config: Config | None = None

    @classmethod
    def fork(cls, context: ForkServerContext, slot: int, size: int) -> Worker:
        """Start the worker number `slot` of `size`."""
        ours, theirs = context.Pipe()
        arguments = (theirs, slot, size, os.environ.get(LAUNCH, ""))
        process = context.Process(target=work, args=arguments, daemon=True)
        process.start()
        theirs.close()  # so that the connection ends when the worker dies
        return cls(process, ours)

    def give(self, config: Config) -> None:
        """Send a run to this worker."""
        self.config = config
        with contextlib.suppress(OSError):  # it has died, which `answer` reports
            self.connection.send(config.tree())

    def answer(self) -> Errors:
        """Receive the end of the current run, or notice the worker's death."""
        assert self.config is not None
        path, self.config = self.config.run.path, None
        try:
            error = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            error = f"its worker died ({how})"
        return {path: error} if error else {}


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


def by_data(configs: Sequence[Config]) -> list[Config]:
    """Return the configs by data set, the data sets in the order in which they first occur."""
    places: dict[tuple[str, str], int] = {}
    return sorted(
        configs,
        key=lambda c: places.setdefault((c.dataset.name, str(c.dataset.folder)), len(places)),
    )
