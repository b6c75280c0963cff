"""Launchers, which execute the runs of a sweep: the base class, and those that Hydra has."""

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
from ..machine.stopping import launching, listening
from ..registry import PACKAGE

ANALYSIS = f"{PACKAGE.name}.analysis" if (PACKAGE / "analysis").is_dir() else "analysis"
"""The package of the tables: inside ours once installed, next to it in a checkout."""

MAX_PROCESSES_PER_GPU = 2  # each holds a CUDA context, its own data and activations: about 2 GB
LOCAL = ("basic", "joblib")  # runs of another plugin may go to another machine
Until = Callable[[], str | None]  # returns the reason to start no more runs, or None
Errors = dict[Path, str]  # by run folder, those that the run's own error.json does not hold


class PlannedRun(NamedTuple):
    config: Config
    overrides: Sequence[str]


class Launcher(ABC):
    """Executes the runs of a sweep.

    local: the runs are executed on this machine, so that its GPUs and memory must be enough.
    """

    local: ClassVar[bool] = True

    def check(self, runs: Sequence[PlannedRun]) -> None:  # noqa: B027
        """Raise ValueError if the runs cannot be started; write nothing."""

    def request(self, runs: Sequence[PlannedRun]) -> str:
        """Return a sentence on the resources that would be requested for the runs, or ""."""
        return ""

    @abstractmethod
    def count_workers(self, configs: Sequence[Config]) -> int:
        """Return how many of the runs are executed at once, if there are enough."""

    @abstractmethod
    def start(self, runs: Sequence[PlannedRun], until: Until) -> Errors | None:
        """Execute the runs, and start no more once `until` gives a reason; None if submitted."""


@dataclass
class HydraLauncher(Launcher):
    """`hydra/launcher=joblib`, `basic`, or a plugin: Hydra composes each config in a worker."""

    context: HydraContext
    task: TaskFunction
    config: DictConfig

    def check(self, runs: Sequence[PlannedRun]) -> None:
        """Build the plugin; with GPUs, `n_jobs=-1` means MAX_PROCESSES_PER_GPU, not all cores."""
        keys = self.config.hydra.launcher
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
        local = self.config.hydra.runtime.choices["hydra/launcher"] in LOCAL
        with launching() if local else listening():
            if local:
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


class _Overrides(list[Sequence[str]]):
    """Overrides of runs; iterating ends once `until` returns a reason, as launchers start them."""

    until: Until

    def __iter__(self) -> Iterator[Sequence[str]]:
        return itertools.takewhile(lambda _: not self.until(), super().__iter__())


def attempt(execution: Callable[[], object]) -> str | None:
    """Execute runs; return the error that their error.json files do not hold, if any."""
    from ..journal import show_unforeseen  # imports torch

    try:
        execution()
    except (Exception, SystemExit) as error:
        show_unforeseen(error)
        return f"{type(error).__name__}: {error}"
    return None


def refuse_on_failure(runs: Sequence[PlannedRun], name: str) -> None:
    """Raise ValueError if a run is to be stopped, and the launcher `name` cannot stop it."""
    if name not in (*LOCAL, "packed") and any(run.config.on_failure == "stop" for run in runs):
        raise ValueError(
            f"on_failure=stop must be continue with hydra/launcher={name}, whose jobs this process "
            "cannot stop; use basic, joblib or packed"
        )


def end_joblib_workers() -> None:
    """End the idle processes that joblib keeps for its next call."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(reuse=True).shutdown(kill_workers=True)


def solve_exact(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Solve the exact fits here, where they share factorisations, and return the other runs."""
    from ..execute import execute_exact  # imports torch

    if exact := [run.config for run in runs if run.config.exact]:
        execute_exact(exact)
    return [run for run in runs if not run.config.exact]


def count_gpus(configs: Sequence[Config]) -> int:
    """Return the number of GPUs that the runs may use."""
    from ..machine.gpu import supported  # imports torch

    return 0 if all(config.device == "cpu" for config in configs) else len(supported())
