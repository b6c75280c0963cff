"""Launchers, which execute the runs of a sweep: the base class, and those that Hydra has."""

from __future__ import annotations

import itertools
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher as HydraPlugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, read_write

from ..config import Config
from ..console import log, logging_to
from ..machine.stopping import launching

PACKAGE = Path(__file__).parent.parent
ANALYSIS = f"{PACKAGE.name}.analysis" if (PACKAGE / "analysis").is_dir() else "analysis"
"""The package of the tables: inside ours once installed, next to it in a checkout."""

MAX_PROCESSES_PER_GPU = 2  # each holds a CUDA context, its own data and activations: about 2 GB

SOLVED_HERE = ("basic", "joblib")  # Hydra's launchers whose runs stay on this machine

Until = Callable[[], str | None]
"""Function that returns the reason to start no more runs, or None."""

Errors = dict[Path, str]
"""Errors by run folder that the run's own error.json does not hold."""


class PlannedRun(NamedTuple):
    """A run of a sweep: its config, and the overrides that describe it."""

    config: Config
    overrides: list[str]


class Launcher(ABC):
    """Executes the runs of a sweep.

    local: the runs are executed on this machine, so that its GPUs and memory must be enough.
    """

    local: ClassVar[bool] = True

    @abstractmethod
    def check(self, runs: Sequence[PlannedRun]) -> None:
        """Prepare for the runs; write nothing.

        Raises:
            ValueError: the runs cannot be started.
        """

    def request(self, runs: Sequence[PlannedRun]) -> str:
        """Return the resources that would be requested for the runs as a sentence, or ""."""
        return ""

    @abstractmethod
    def count_workers(self, configs: Sequence[Config]) -> int:
        """Return how many of the runs are executed at once, if there are enough."""

    @abstractmethod
    def start(self, runs: Sequence[PlannedRun], until: Until) -> Errors | None:
        """Execute the runs, and start no more of them once `until` returns a reason.

        Returns None if the runs were submitted and are executed after this process has ended.
        """


@dataclass
class HydraLauncher(Launcher):
    """`hydra/launcher=joblib`, `basic`, or a plugin.

    These launchers take overrides instead of configs: Hydra composes a run's config in the worker.
    """

    context: HydraContext
    task: TaskFunction
    config: DictConfig

    def check(self, runs: Sequence[PlannedRun]) -> None:
        """Build the plugin; with GPUs, `n_jobs=-1` means MAX_PROCESSES_PER_GPU, not all cores."""
        keys, name = self.config.hydra.launcher, self.config.hydra.runtime.choices["hydra/launcher"]
        if name not in SOLVED_HERE:
            refuse_on_failure(runs, name)
        gpus = count_gpus([run.config for run in runs])
        if gpus and keys.get("n_jobs", 1) < 0:
            with read_write(self.config):
                keys.n_jobs = MAX_PROCESSES_PER_GPU * gpus
            with logging_to():
                log.info(
                    f"At most {keys.n_jobs} processes, {MAX_PROCESSES_PER_GPU} per GPU; "
                    "hydra.launcher.n_jobs=N sets another number"
                )
        self.plugin: HydraPlugin = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task, config=self.config
        )

    def count_workers(self, configs: Sequence[Config]) -> int:
        from ..machine.resources import cpu_count

        jobs = int(self.config.hydra.launcher.get("n_jobs", 1))
        return jobs if jobs > 0 else MAX_PROCESSES_PER_GPU * count_gpus(configs) or cpu_count()

    def start(self, runs: Sequence[PlannedRun], until: Until) -> Errors:
        with launching():
            if self.config.hydra.runtime.choices["hydra/launcher"] in SOLVED_HERE:
                runs = solve_exact(runs)
            if not runs:
                return {}
            overrides = _Overrides([run.overrides for run in runs])
            overrides.until = until
            try:
                returns = self.plugin.launch(overrides, initial_job_idx=0)
            except Exception as error:  # such as a killed worker; the files hold each run's state
                print(f"The launcher gave up: {error}", file=sys.stderr)
                return {}
            finally:
                if "n_jobs" in self.config.hydra.launcher:
                    end_joblib_workers()
        return {
            run.config.run.path: f"{type(job._return_value).__name__}: {job._return_value}"
            for run, job in zip(runs, returns, strict=False)  # fewer, if it was stopped
            if job.status == JobStatus.FAILED
        }


class _Overrides(list[list[str]]):
    """Overrides of runs; iterating ends once `until` returns a reason, as launchers start them."""

    until: Until

    def __iter__(self) -> Iterator[list[str]]:
        return itertools.takewhile(lambda _: not self.until(), super().__iter__())


def refuse_on_failure(runs: Sequence[PlannedRun], name: str) -> None:
    """Raise ValueError if a run that this process cannot stop is to be stopped."""
    if any(run.config.on_failure == "stop" for run in runs):
        raise ValueError(
            f"on_failure=stop must be continue with hydra/launcher={name}, whose jobs this process "
            "cannot stop; use basic, joblib or packed"
        )


def end_joblib_workers() -> None:
    """End the idle processes that joblib keeps for its next call; exiting would wait for them."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(reuse=True).shutdown(kill_workers=True)


def solve_exact(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Solve the exact fits among the runs in this process, with all cores, and return the others.

    Runs that differ only in their labels then share one factorisation in memory.
    """
    from ..execute import execute_exact  # imports torch

    if exact := [run.config for run in runs if run.config.exact]:
        execute_exact(exact)
    return [run for run in runs if not run.config.exact]


def count_gpus(configs: Sequence[Config]) -> int:
    """Return the number of GPUs that the runs may use."""
    from ..machine.gpu import supported  # imports torch

    return 0 if all(config.device == "cpu" for config in configs) else len(supported())
