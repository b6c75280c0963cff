"""The launcher `packed`: persistent worker processes that execute many runs each."""

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import ClassVar

from ..config import Config
from ..machine.stopping import LAUNCH, follow, stop_launch
from .launcher import Errors, Launcher, Until, count_gpus, perform


@dataclass
class Packed(Launcher):
    """`hydra/launcher=packed`: workers that load each data set once.

    Each run goes to the next free worker; runs of one data set follow each other. When a worker
    dies, its current run fails, and another worker replaces it.

    workers: number of worker processes, for each GPU where there is one. `auto` means one per GPU;
        on a CPU, as many as the cores hold with the runs' `threads`.
    """

    name: ClassVar[str] = "packed"

    workers: str = "auto"

    def __post_init__(self) -> None:
        if self.workers != "auto" and not (self.workers.isdecimal() and int(self.workers) > 0):
            raise ValueError(
                f"hydra.launcher.workers={self.workers} must be auto or a number of at least 1"
            )

    def start(self, configs: Sequence[Config], until: Until) -> Errors:
        """Execute the runs; no worker outlives this call."""
        # Runs of one data set follow each other: a worker keeps the last one that it has loaded.
        waiting = deque(sorted(configs, key=lambda c: (c.dataset.name, str(c.dataset.folder))))
        size = min(self.count_workers(configs), len(waiting))
        workers: list[Worker] = []
        errors: Errors = {}
        try:
            for slot in range(size):
                workers.append(Worker(slot))
            while True:
                for slot, worker in enumerate(workers):
                    if worker.config is None and waiting and not until():
                        if worker.process.exitcode is not None:
                            worker = workers[slot] = Worker(slot)
                        worker.give(waiting.popleft())
                busy = [worker for worker in workers if worker.config]
                if not busy:
                    return errors
                answered = wait([worker.connection for worker in busy])
                for worker in busy:
                    if worker.connection in answered:
                        errors |= worker.answer()
        finally:
            for worker in workers:
                worker.connection.close()  # which ends a worker that waits for its next run
            for worker in workers:
                worker.process.join(10)
                worker.process.kill()
                worker.process.join()

    def count_workers(self, configs: Sequence[Config]) -> int:
        from ..machine.resources import cpu_count

        gpus = count_gpus(configs)
        if self.workers != "auto":
            return int(self.workers) * max(1, gpus)
        if gpus:
            return gpus
        threads = [int(config.threads) for config in configs if config.threads != "auto"]
        return max(1, cpu_count() // max(threads, default=1))


class Worker:
    """A worker process, as its parent sees it; its number `slot` chooses its GPU."""

    def __init__(self, slot: int) -> None:
        self.config: Config | None = None  # the run that it executes
        # Workers are forked from a process that has imported these modules and torch.
        forkserver.set_forkserver_preload(["randlabels.execute", "randlabels.launchers.packed"])
        resource_tracker.ensure_running()  # as forkserver does; it leaves SIGINT unblocked
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()  # a Ctrl-C during its imports would show a traceback
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        context = multiprocessing.get_context("forkserver")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, slot, os.environ.get(LAUNCH, ""))
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()  # so that the connection ends when the worker dies

    def give(self, config: Config) -> None:
        self.config = config
        with contextlib.suppress(OSError):  # it has died, which `answer` reports
            self.connection.send(config.tree())

    def answer(self) -> Errors:
        """Receive the end of the current run, or notice the worker's death."""
        assert self.config is not None
        config, self.config = self.config, None
        try:
            error = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            error = f"its worker died ({how})"
            if config.on_failure == "stop":
                stop_launch()
        return {config.run.path: error} if error else {}


def work(connection: Connection, slot: int, launch: str) -> None:
    """Answer each config tree with that of `perform`, until the parent closes the connection."""
    os.environ[LAUNCH] = launch  # not that of the process that workers are forked from
    follow()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has no more runs, or died
        while True:
            connection.send(perform([connection.recv()], slot))
