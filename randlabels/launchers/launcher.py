"""Launchers, which execute the runs of a sweep: the base class, and that of joblib."""

import sys
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import joblib
from joblib.externals.loky import get_reusable_executor

from ..config import Config, parse
from ..console import log, logging_to
from ..machine.stopping import follow, stop_launch
from ..registry import PACKAGE

# The package of the tables: inside ours once installed, next to it in a checkout.
ANALYSIS = f"{PACKAGE.name}.analysis" if (PACKAGE / "analysis").is_dir() else "analysis"
MAX_PROCESSES_PER_GPU = 2  # each holds a CUDA context, its own data and activations: about 2 GB
Until = Callable[[], str | None]  # returns the reason to start no more runs, or None
Errors = dict[Path, str]  # by run folder, those that the run's own error.json does not hold


class Launcher(ABC):
    """Executes the runs of a sweep.

    local: the runs are executed on this machine, so that its GPUs and memory must be enough.
    """

    local: ClassVar[bool] = True

    def check(self) -> None:  # noqa: B027
        """Raise ValueError if runs cannot be started; write nothing."""

    def request(self, runs: int) -> str:
        """Return a sentence on the resources that would be requested for the runs, or ""."""
        return ""

    @abstractmethod
    def count_workers(self, configs: Sequence[Config]) -> int:
        """Return how many of the runs are executed at once, if there are enough."""

    @abstractmethod
    def start(self, configs: Sequence[Config], until: Until) -> Errors | None:
        """Execute the runs, and start no more once `until` gives a reason; None if submitted."""


@dataclass
class Joblib(Launcher):
    """`hydra/launcher=joblib`, and `basic`, whose `n_jobs=1` means this process.

    n_jobs: processes, as joblib counts them; -1 means MAX_PROCESSES_PER_GPU where there are GPUs.
    """

    name: ClassVar[str] = "joblib"

    n_jobs: int = -1

    def __post_init__(self) -> None:
        if self.n_jobs == 0:
            raise ValueError("hydra.launcher.n_jobs=0 must be at least 1, or -1 for all cores")

    def count_workers(self, configs: Sequence[Config]) -> int:
        gpus = count_gpus(configs) if self.n_jobs < 0 else 0
        return MAX_PROCESSES_PER_GPU * gpus or int(joblib.effective_n_jobs(self.n_jobs))

    def start(self, configs: Sequence[Config], until: Until) -> Errors:
        workers = self.count_workers(configs)
        if self.n_jobs < 0 and count_gpus(configs):
            with logging_to():
                log.info(
                    f"At most {workers} processes, {MAX_PROCESSES_PER_GPU} per GPU; "
                    "hydra.launcher.n_jobs=N sets another number"
                )
        calls = (
            joblib.delayed(perform)([config.tree()], number)
            for number, config in enumerate(configs)
            if not until()  # asked when the run is handed out
        )
        try:
            processes = min(workers, max(2, len(configs)))  # one would be this process
            with warnings.catch_warnings():  # joblib replaces a worker that has grown by 300 MB
                warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
                errors = joblib.Parallel(processes, backend="loky")(calls)
        except Exception as error:  # such as a killed worker; the files hold each run's state
            print(f"The launcher gave up: {error}", file=sys.stderr)
            return {}
        finally:
            if workers > 1:  # joblib keeps idle processes for its next call
                get_reusable_executor(reuse=True).shutdown(kill_workers=True)
        return {c.run.path: error for c, error in zip(configs, errors, strict=False) if error}


def perform(trees: Sequence[Mapping[str, Any]], number: int, cores: int = 1) -> str | None:
    """Execute runs in a worker; return the error that their error.json files do not hold, if any.

    trees: of `Config.tree`. number, cores: see `execute`.
    """
    follow()  # before the import of torch, which takes seconds
    from ..execute import execute

    try:
        execute([parse(tree) for tree in trees], number, cores)
    except (Exception, SystemExit) as error:
        if trees[0]["on_failure"] == "stop":
            stop_launch()
        if not isinstance(error, ValueError | OSError | SystemExit):  # a refusal
            traceback.print_exception(error)
        return f"{type(error).__name__}: {error}"
    return None


def count_gpus(configs: Sequence[Config]) -> int:
    """Return the number of GPUs that the runs may use."""
    from ..machine.gpu import supported  # imports torch

    return 0 if all(config.device == "cpu" for config in configs) else len(supported())
