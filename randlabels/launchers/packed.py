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

from ..config import Config
from ..machine.stopping import LAUNCH, launching, uninterrupted
from .launcher import Errors, PlannedRun, Until, count_gpus, solve_exact
from .worker import work

PRELOADED = ["randlabels.execute", "randlabels.launchers.worker"]
"""Imported once, with torch, by the process that all workers are forked from."""

SHUTDOWN_SECONDS = 10.0  # after which a worker is killed


@dataclass
class Packed:
    """`hydra/launcher=packed`: workers import torch once and load each data set once.

    Each run goes to the next free worker; runs of one data set follow each other. When a worker
    dies, its current run fails, and another worker replaces it.

    workers: number of worker processes, for each GPU where there is one. `auto` means one per GPU;
        on a CPU, as many as the cores hold with the runs' `threads`.

    Raises:
        ValueError: `workers` is neither `auto` nor a number of at least 1.
    """

    name: ClassVar[str] = "packed"
    local: ClassVar[bool] = True

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

    def request(self, runs: Sequence[PlannedRun]) -> str:
        return ""

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
                        errors |= workers[slot].answer()
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
        """Return the number of workers for the runs, if there are enough runs."""
        from ..machine.resources import cpu_cores

        gpus = count_gpus(configs)
        if self.workers != "auto":
            return int(self.workers) * max(1, gpus)
        if gpus:
            return gpus
        threads = [int(config.threads) for config in configs if config.threads != "auto"]
        return max(1, len(cpu_cores()) // max(threads, default=1))


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


def by_data(configs: Sequence[Config]) -> list[Config]:
    """Those of one data set together, the data sets in the order in which they first occur."""
    groups: dict[tuple[str, str], list[Config]] = {}
    for config in configs:
        key = config.dataset.name, str(config.dataset.folder)
        groups.setdefault(key, []).append(config)
    return [config for group in groups.values() for config in group]
