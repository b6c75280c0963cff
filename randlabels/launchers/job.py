"""What a job of a Slurm array does on its node: some runs, one after the other."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

from ..config import Config, parse
from ..console import log, logging_to
from ..machine import stopping
from ..store.rundir import FINISHED

PATIENCE = 5.0
"""Seconds within which a signal that ended the runs has reached the process that watches them."""

Tree = Mapping[str, Any]
"""A run as `Config.tree()` gives it."""


class Job:
    """A callable for submitit, which calls `checkpoint` when Slurm gives notice of the end.

    The runs are executed in a process of their own: whatever kills them leaves this one to say
    so, and they may treat signals as they do under other launchers.

    trees: the runs. first: the number of the first of them in the sweep. cores: CPU threads of
    each. notice: seconds between the signal and the time limit.
    """

    def __init__(self, trees: Sequence[Tree], *, first: int, cores: int, notice: int) -> None:
        self.trees = trees
        self.first = first
        self.cores = cores
        self.notice = notice
        self.runs: BaseProcess | None = None

    def __call__(self) -> None:
        """Execute the runs.

        Raises:
            RuntimeError: a run has no result; its folder says why.
        """
        arguments = (self.trees, self.first, self.cores)
        self.runs = multiprocessing.get_context("spawn").Process(
            target=execute_all, args=arguments, daemon=True
        )
        self.runs.start()
        self.runs.join()
        if self.runs.exitcode:
            time.sleep(PATIENCE)  # Slurm signals all processes, and this one then requeues
            runs = [parse(tree).run for tree in self.trees]
            logs = " ".join(str(run.log) for run in runs if run.state() not in FINISHED)
            raise RuntimeError(f"No result (exit code {self.runs.exitcode}); see {logs}")

    def checkpoint(self) -> Any:
        """The same job once more, for when its runs have ended at a safe point of theirs.

        They heard the signal too. They get three quarters of the notice; what they have not
        saved by then is computed again.
        """
        from submitit.helpers import DelayedSubmission

        if self.runs is not None:
            self.runs.join(0.75 * self.notice)
        again = Job(self.trees, first=self.first, cores=self.cores, notice=self.notice)
        return DelayedSubmission(again)


def execute_all(trees: Sequence[Tree], first: int, cores: int) -> None:
    """Execute runs, exact fits first and together, and exit: with 0 if each has a result or is
    another process's, else with 1. `force` is not looked at: the launch has applied it."""
    from ..execute import execute, execute_exact  # torch, which the watching process does without

    configs = [parse(tree) for tree in trees]
    exact = [config for config in configs if config.exact]
    with stopping.listening():
        _try(exact, partial(execute_exact, exact, first, cores))
        for number, config in enumerate(configs, first):
            if not config.exact:
                _try([config], partial(execute, config, number, cores))
    states = {config.run.state() for config in configs}
    sys.exit(0 if states <= {*FINISHED, "running"} else 1)


def _try(configs: Sequence[Config], execution: Callable[[], object]) -> None:
    """One refused run does not keep the others from being executed."""
    try:
        execution()
    except (ValueError, OSError) as error:
        with logging_to():
            log.error("%s: %s", ", ".join(config.run_id for config in configs), error)
