"""A job of a Slurm array on its node: it executes some runs one after the other."""

import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

from ..config import Config, parse
from ..machine import stopping
from ..store.rundir import FINISHED
from .launcher import attempt


@dataclass(kw_only=True)
class Job:
    """A callable for submitit, which calls `checkpoint` when Slurm announces the job's end.

    The runs are executed in a child process. What kills it leaves this process to report it, and
    the child can handle signals as under other launchers.

    trees: of `Config.tree`. first: number of the first run in the sweep. cores: CPU threads of
    each. notice: seconds between the signal and the time limit.
    """

    trees: Sequence[Mapping[str, Any]]
    first: int
    cores: int
    notice: int
    child: BaseProcess | None = None

    def __call__(self) -> None:
        """Execute the runs; RuntimeError if one has no result, whose folder says why."""
        arguments = (self.trees, self.first, self.cores)
        self.child = multiprocessing.get_context("spawn").Process(
            target=execute_all, args=arguments, daemon=True
        )
        self.child.start()
        self.child.join()
        if self.child.exitcode:
            time.sleep(5)  # a signal that ended the runs comes here too, and requeues the job
            runs = [parse(tree).run for tree in self.trees]
            logs = " ".join(str(run.log) for run in runs if run.state() not in FINISHED)
            raise RuntimeError(f"No result (exit code {self.child.exitcode}); see {logs}")

    def checkpoint(self) -> Any:
        """Return the same job, to be requeued, once its runs have stopped at a safe point.

        The child received the signal too. It gets three quarters of the notice; what it has not
        saved by then is recomputed.
        """
        from submitit.helpers import DelayedSubmission

        if self.child is not None:
            self.child.join(0.75 * self.notice)
        return DelayedSubmission(replace(self, child=None))


def execute_all(trees: Sequence[Mapping[str, Any]], first: int, cores: int) -> None:
    """Execute runs, exact fits first and together; exit with 1 if one ends without a result."""
    from ..execute import execute, execute_exact  # torch, which the parent does not need

    configs = [parse({**tree, "verbose": True}) for tree in trees]  # in the job's output
    exact = [config for config in configs if config.exact]
    with stopping.listening():
        _report(exact, attempt(partial(execute_exact, exact, first, cores)))
        for number, config in enumerate(configs, first):
            if not config.exact:
                _report([config], attempt(partial(execute, config, number, cores)))
    states = {config.run.state() for config in configs}
    sys.exit(0 if states <= {*FINISHED, "running"} else 1)


def _report(configs: Sequence[Config], error: str | None) -> None:
    if error:
        print(f"{', '.join(config.run_id for config in configs)}: {error}", flush=True)
