"""The launcher `packed`: worker processes that stay, and take one run after the other, or several
at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ..config import Config
from ..machine.stopping import LAUNCH, reason, uninterrupted
from .worker import Answer, work

PRELOADED = ["randlabels.execute", "randlabels.launchers.worker"]
"""Imported once, by the process that all workers are copies of; torch comes along."""

ON_GPU = 4
"""Runs that share a GPU: a small one alone leaves most of it idle."""

PATIENCE = 10.0
"""Seconds that a worker has for ending when it is told to, before it is killed."""


class PackedLauncher(Launcher):
    """`hydra/launcher=packed`: workers that import torch once and load each data set once.

    Every run is handed to the next free worker, those of one data set after each other. A worker
    that dies loses the runs that it was at only, and another one takes its place.

    workers: number of worker processes, or `auto`: one for each GPU; on a CPU, as many as there
        are cores for the runs' `threads`.
    concurrency: number of runs that a worker executes at a time, each in a thread of its own, or
        `auto`: ON_GPU on a GPU, 1 on a CPU. A worker in which one of them runs out of memory has
        half as many from then on, and that run comes again.

    Raises:
        ValueError: `workers` or `concurrency` is neither `auto` nor a number of at least 1.
    """

    def __init__(self, workers: int | str = "auto", concurrency: int | str = "auto") -> None:
        for key, value in {"workers": workers, "concurrency": concurrency}.items():
            if value != "auto" and not (isinstance(value, int) and value > 0):
                raise ValueError(
                    f"hydra.launcher.{key}={value} must be auto or a number of at least 1"
                )
        self.workers = workers
        self.concurrency = concurrency

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Nothing of Hydra is needed to execute configs."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        raise ValueError(
            "hydra/launcher=packed takes its runs from hydra/sweeper=grid only; "
            "use hydra/launcher=joblib with another sweeper"
        )

    def prepare(self) -> None:
        """Start the process that workers are copies of, unless it is there.

        Its imports take seconds, in which this process has runs to compose and to check. A Ctrl-C
        would end them with a traceback, so that SIGINT is blocked there until a worker follows
        this process.
        """
        forkserver.set_forkserver_preload(PRELOADED)
        resource_tracker.ensure_running()  # as forkserver does; it leaves SIGINT unblocked
        with uninterrupted():
            forkserver.ensure_running()

    def execute(self, configs: Sequence[Config], limit: float | None = None) -> dict[Path, str]:
        """Bring the runs to their ends; by folder, what went wrong beyond a run's own error.json.

        Once this process is to stop, by a signal or after `limit` seconds, no other run begins,
        and the workers, which follow it, end theirs at a safe point. No worker outlives this call.
        """
        waiting = deque(by_data(configs))
        size = min(self._size(configs), len(waiting))
        concurrency = self._concurrency(configs)
        self.prepare()
        context = multiprocessing.get_context("forkserver")
        errors: dict[Path, str] = {}
        workers: list[Worker] = []
        try:
            for slot in range(size):
                workers.append(Worker.start(context, slot, size, concurrency))
            hand_out(waiting, workers)
            while busy := [worker for worker in workers if worker.runs]:
                wait([worker.line for worker in busy])
                for worker in [worker for worker in busy if worker.line.poll()]:
                    for answer in worker.answers():
                        if answer.again:
                            worker.halve()
                            waiting.append(worker.runs[answer.path])
                        elif answer.error:
                            errors[answer.path] = answer.error
                        del worker.runs[answer.path]
                if not waiting or reason(limit):
                    continue
                for slot, worker in enumerate(workers):
                    if not worker.runs and worker.process.exitcode is not None:
                        workers[slot] = Worker.start(context, slot, size, worker.concurrency)
                hand_out(waiting, workers)
        finally:
            for worker in workers:
                worker.line.close()  # which ends a worker that waits for its next run
            for worker in workers:
                worker.process.join(PATIENCE)
                worker.process.kill()
                worker.process.join()
        return errors

    def _size(self, configs: Sequence[Config]) -> int:
        from ..machine.resources import cpu_cores

        if isinstance(self.workers, int):
            return self.workers
        if gpus := _gpus(configs):
            return gpus
        threads = [int(config.threads) for config in configs if config.threads != "auto"]
        return max(1, len(cpu_cores()) // max(threads, default=1))

    def _concurrency(self, configs: Sequence[Config]) -> int:
        if isinstance(self.concurrency, int):
            return self.concurrency
        return ON_GPU if _gpus(configs) else 1


@dataclass
class Worker:
    """A process that executes runs, as its parent sees it.

    concurrency: how many runs it is given at a time. runs: by folder, what it is at.
    """

    process: ForkServerProcess
    line: Connection
    concurrency: int
    runs: dict[Path, Config] = field(default_factory=dict)

    @classmethod
    def start(cls, context: ForkServerContext, slot: int, size: int, concurrency: int) -> Worker:
        """The worker for `slot`, one of `size`."""
        ours, theirs = context.Pipe()
        arguments = (theirs, slot, size, concurrency, os.environ.get(LAUNCH, ""))
        process = context.Process(target=work, args=arguments, daemon=True)
        process.start()
        theirs.close()  # so that the death of the worker ends the line
        return cls(process, ours, concurrency)

    def give(self, config: Config) -> None:
        self.runs[config.run.path] = config
        with contextlib.suppress(OSError):  # it died in the meantime; the end of the line says so
            self.line.send((config, self.concurrency > 1))

    def answers(self) -> list[Answer]:
        """What it says of one of the runs that it was at, or its death of all of them."""
        try:
            return [self.line.recv()]
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            return [Answer(path, f"its worker died ({how})") for path in self.runs]

    def halve(self) -> None:
        """The runs that it is at need too much memory together."""
        self.concurrency = max(1, min(self.concurrency, len(self.runs)) // 2)


def hand_out(waiting: deque[Config], workers: Sequence[Worker]) -> None:
    """Give each worker as many runs as it takes, in turns."""
    while free := [worker for worker in workers if len(worker.runs) < worker.concurrency]:
        if not waiting:
            return
        min(free, key=lambda worker: len(worker.runs)).give(waiting.popleft())


def by_data(configs: Sequence[Config]) -> list[Config]:
    """Those of one data set together, the data sets in the order in which they first occur."""
    groups: dict[tuple[str, str], list[Config]] = {}
    for config in configs:
        key = config.dataset.name, str(config.dataset.folder)
        groups.setdefault(key, []).append(config)
    return [config for group in groups.values() for config in group]


def _gpus(configs: Sequence[Config]) -> int:
    """Number of the GPUs that the runs may use; 0 if there is none, or none may."""
    import torch

    on_cpu = all(config.device == "cpu" for config in configs)
    return 0 if on_cpu or not torch.cuda.is_available() else torch.cuda.device_count()
