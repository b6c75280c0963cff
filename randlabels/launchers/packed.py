"""The launcher `packed`: worker processes that stay, and take one run after the other."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ..config import Config
from ..stopping import LAUNCH, follow, reason

PRELOADED = ["randlabels.execute", "randlabels.launchers.packed", "torch._dynamo"]
"""Imported once, by the process that all workers are copies of; torch comes along. The first
optimizer that a process builds would import the last one, which takes as long as torch itself."""

PATIENCE = 10.0
"""Seconds that a worker has for ending when it is told to, before it is killed."""


class PackedLauncher(Launcher):
    """`hydra/launcher=packed`: workers that import torch once and load each data set once.

    Every run is handed to the next free worker, those of one data set after each other. A worker
    that dies loses its run only, and another one takes its place.

    workers: number of worker processes, or `auto`: one for each GPU; on a CPU, as many as there
        are cores for the runs' `threads`.

    Raises:
        ValueError: `workers` is neither `auto` nor a number of at least 1.
    """

    def __init__(self, workers: int | str = "auto") -> None:
        if workers != "auto" and not (isinstance(workers, int) and workers > 0):
            raise ValueError(
                f"hydra.launcher.workers={workers} must be auto or a number of at least 1"
            )
        self.workers = workers

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
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def execute(self, configs: Sequence[Config], limit: float | None = None) -> dict[Path, str]:
        """Bring the runs to their ends; by folder, what went wrong beyond a run's own error.json.

        Once this process is to stop, by a signal or after `limit` seconds, no other run begins,
        and the workers, which follow it, end theirs at a safe point. No worker outlives this call.
        """
        waiting = deque(by_data(configs))
        size = min(self._size(configs), len(waiting))
        self.prepare()
        context = multiprocessing.get_context("forkserver")
        errors: dict[Path, str] = {}
        workers: list[Worker] = []
        try:
            for slot in range(size):
                workers.append(Worker.start(context, slot, size))
                workers[-1].give(waiting.popleft())
            while busy := [worker for worker in workers if worker.run is not None]:
                wait([worker.line for worker in busy])
                for worker in [worker for worker in busy if worker.line.poll()]:
                    config = worker.run
                    assert config is not None
                    if error := worker.answer():
                        errors[config.run.path] = error
                    if not waiting or reason(limit):
                        continue
                    if worker.process.exitcode is not None:
                        workers.remove(worker)
                        worker = Worker.start(context, worker.slot, size)
                        workers.append(worker)
                    worker.give(waiting.popleft())
        finally:
            for worker in workers:
                worker.line.close()  # which ends a worker that waits for its next run
            for worker in workers:
                worker.process.join(PATIENCE)
                worker.process.kill()
                worker.process.join()
        return errors

    def _size(self, configs: Sequence[Config]) -> int:
        if isinstance(self.workers, int):
            return self.workers
        import torch

        if torch.cuda.is_available() and any(config.device != "cpu" for config in configs):
            return torch.cuda.device_count()
        threads = [int(config.threads) for config in configs if config.threads != "auto"]
        return max(1, len(cores()) // max(threads, default=1))


@dataclass
class Worker:
    """A process that executes runs, as its parent sees it.

    slot: its number among the workers. run: what it is at; None if it is idle.
    """

    process: ForkServerProcess
    line: Connection
    slot: int
    run: Config | None = None

    @classmethod
    def start(cls, context: ForkServerContext, slot: int, size: int) -> Worker:
        """The worker for `slot`, one of `size`."""
        ours, theirs = context.Pipe()
        launch = os.environ.get(LAUNCH, "")
        process = context.Process(target=work, args=(theirs, slot, size, launch), daemon=True)
        process.start()
        theirs.close()  # so that the death of the worker ends the line
        return cls(process, ours, slot)

    def give(self, config: Config) -> None:
        self.run = config
        try:
            self.line.send(config)
        except OSError:
            pass  # it died in the meantime; the end of the line says so

    def answer(self) -> str | None:
        """What went wrong with the run that it was at, if anything did."""
        self.run = None
        try:
            return self.line.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            return f"its worker died ({how})"


def by_data(configs: Sequence[Config]) -> list[Config]:
    """Those of one data set together, the data sets in the order in which they first occur."""
    groups: dict[tuple[str, str], list[Config]] = {}
    for config in configs:
        key = config.dataset.name, str(config.dataset.folder)
        groups.setdefault(key, []).append(config)
    return [config for group in groups.values() for config in group]


def work(line: Connection, slot: int, size: int, launch: str) -> None:
    """The life of a worker: execute each run that comes, until the parent ends or says so.

    It follows `launch`, the content of `stopping.LAUNCH` in its parent.
    """
    from ..execute import execute

    follow(launch)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _pin(slot, size)
    _answer_all(line, lambda config: execute(config, job=slot))


def _answer_all(line: Connection, execute: Callable[[Config], str]) -> None:
    while True:
        try:
            config = line.recv()
        except EOFError:  # the parent has no more, or has died
            return
        error = None
        try:
            execute(config)
        except Exception as raised:  # before the run had files; the others go on
            error = f"{type(raised).__name__}: {raised}"
        line.send(error)


def cores() -> list[int]:
    """Numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _pin(slot: int, size: int) -> None:
    """Keep to cores of one's own, where all workers together fill the machine."""
    mine = cores()
    each = len(mine) // size
    if hasattr(os, "sched_setaffinity") and size * each == len(mine):
        os.sched_setaffinity(0, mine[slot * each : (slot + 1) * each])
