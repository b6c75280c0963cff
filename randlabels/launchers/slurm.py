"""The Slurm launcher: a sweep as one array of jobs, requeued until their runs are done."""

import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from io import StringIO
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar

from ..config import Config, parse
from ..console import pluralize
from ..machine.stopping import listening
from ..store.rundir import FINISHED
from .launcher import ANALYSIS, Errors, Launcher, Until, perform

LOG_FOLDER = ".slurm"  # next to the runs: the jobs' scripts and output

# Options of sbatch that `hydra.launcher.sbatch` must not contain.
SET_BY_LAUNCHER = "array dependency error job-name open-mode output requeue signal wait".split()
LEAST = dict(cpus=1, minutes=1, runs_per_job=1, at_once=1, notice=1, gpus=0, timeouts=0)
PREFIX = "hydra.launcher."


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
        spawn = multiprocessing.get_context("spawn")
        self.child = spawn.Process(target=execute_all, args=arguments, daemon=True)
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
    from ..solve import group_by_system  # imports torch

    configs = [parse({**tree, "verbose": True}) for tree in trees]  # in the job's output
    with listening():
        for same in group_by_system(configs):
            number = first + configs.index(same[0])
            if error := perform([config.tree() for config in same], number, cores):
                names = ", ".join(config.run_id for config in same)
                print(f"{names}: {error}", flush=True)
    states = {config.run.state() for config in configs}
    sys.exit(0 if states <= {*FINISHED, "running"} else 1)


@dataclass
class Slurm(Launcher):
    """Submits all runs of a sweep; conf/hydra/launcher/slurm.yaml says what each key means."""

    name: ClassVar[str] = "slurm"
    local: ClassVar[bool] = False

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    cpus: int = 1
    gpus: int = 0
    memory_gb: float | None = None
    minutes: int = 240
    sbatch: dict[str, Any] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
    runs_per_job: int = 1
    at_once: int = 256
    notice: int = 120
    timeouts: int = 100
    collect: bool = True
    wait: bool = False

    def __post_init__(self) -> None:
        for key, least in LEAST.items():
            if getattr(self, key) < least:
                raise ValueError(f"{PREFIX}{key}={getattr(self, key)} must be at least {least}")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise ValueError(f"{PREFIX}memory_gb={self.memory_gb} must be above 0 GB, or null")
        if self.notice >= 60 * self.minutes:
            raise ValueError(
                f"{PREFIX}notice={self.notice} seconds must be less than minutes={self.minutes}; "
                "give a shorter notice or more minutes"
            )
        for key in self.sbatch:
            if key.replace("_", "-") in SET_BY_LAUNCHER:
                raise ValueError(f"{PREFIX}sbatch.{key} is set by the launcher; leave it out")

    def check(self) -> None:
        for command in ("sbatch", "squeue"):
            if shutil.which(command) is None:
                raise ValueError(
                    f"hydra/launcher=slurm needs Slurm's {command}, which is not on this machine; "
                    "launch from a login node, or use another launcher"
                )
        if find_spec("submitit") is None:
            raise ValueError("hydra/launcher=slurm needs submitit; pip install submitit")

    def request(self, runs: int) -> str:
        names = ("partition", "account", "qos", "cpus", "gpus", "memory_gb", "minutes")
        keys = {key: getattr(self, key) for key in names} | self.sbatch
        listed = ", ".join(f"{key}={value}" for key, value in keys.items() if value)
        jobs = pluralize(-(-runs // self.runs_per_job), "job")
        return f"Of Slurm, an array of {jobs} with {listed} each."

    def count_workers(self, configs: Sequence[Config]) -> int:
        return self.at_once

    def start(self, configs: Sequence[Config], until: Until) -> Errors | None:
        """Submit the runs as one array, and after it a job for the tables of each folder."""
        from submitit.helpers import CommandFunction

        folder = configs[0].folder
        logs = folder.absolute() / LOG_FOLDER
        trees = [config.tree() for config in configs]
        size = self.runs_per_job
        jobs = [
            Job(trees=trees[first : first + size], first=first, cores=self.cpus, notice=self.notice)
            for first in range(0, len(trees), size)
        ]
        options = {
            "time": self.minutes,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus or None,
            "mem": self.memory_gb,
            "array_parallelism": self.at_once,
            "signal_delay_s": self.notice,
            # since Slurm 22.05, srun does not inherit --cpus-per-task from sbatch
            "srun_args": [f"--cpus-per-task={self.cpus}"],
            "additional_parameters": {
                **{key.replace("_", "-"): value for key, value in self.sbatch.items()},
                "requeue": True,
            },
        }
        ids = [self.submit(logs, jobs, options)]
        try:
            if self.collect:
                collect = [sys.executable, "-m", f"{ANALYSIS}.collect"]
                folders = sorted({str(config.folder.absolute()) for config in configs})
                commands = [CommandFunction([*collect, path]) for path in folders]
                after = {"time": 60, "dependency": f"afterany:{ids[0]}"}  # takes no minute
                ids.append(self.submit(logs, commands, after, "-tables"))
        finally:
            print(
                f"Submitted {pluralize(len(trees), 'run')} as Slurm job {ids[0]} ({len(jobs)} in "
                f"its array). Follow: python -m {ANALYSIS}.status {folder} --watch; "
                f"cancel: scancel {' '.join(ids)}; logs: {folder / LOG_FOLDER}",
                flush=True,
            )
        if not self.wait:
            return None
        wait(ids)
        return {}

    def submit(
        self, logs: Path, jobs: Sequence[Any], options: Mapping[str, Any], suffix: str = ""
    ) -> str:
        """Submit callables, several as an array; return the job's id. ValueError if sbatch refuses.

        options: submitit's parameters, in addition to those of every job.
        """
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError

        logs.mkdir(mode=0o700, parents=True, exist_ok=True)  # jobs execute what submitit puts there
        executor = SlurmExecutor(logs, max_num_timeout=self.timeouts)
        parameters = {
            "job_name": logs.parent.name + suffix,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "setup": [*export_environment(), *self.setup],
            **options,
        }
        executor.update_parameters(**{k: v for k, v in parameters.items() if v is not None})
        try:
            with redirect_stderr(StringIO()):  # submitit prints there what it raises
                submitted = executor.submit_array(jobs)
        except FailedJobError as error:
            reasons = re.findall(r"sbatch: error: (.+)", str(error)) or [str(error)]
            raise ValueError(
                f"Slurm refuses {pluralize(len(jobs), 'job')}: {'; '.join(reasons)}"
            ) from error
        return str(submitted[0].job_id).partition("_")[0]


def export_environment() -> list[str]:
    """Return shell lines for jobs of sites that do not export the environment to them."""
    lines = [f"cd {shlex.quote(str(Path.cwd()))}"]
    for name in ("PYTHONPATH", "RANDLABELS_DATA"):
        if value := os.environ.get(name):
            absolute = os.pathsep.join(map(os.path.abspath, value.split(os.pathsep)))
            lines.append(f"export {name}={shlex.quote(absolute)}")
    return lines


def wait(ids: Sequence[str]) -> None:
    """Return when none of the jobs is pending or running; squeue forgets jobs after their end."""
    while True:
        command = ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(ids)}"]
        listed = subprocess.run(command, capture_output=True, text=True)
        is_answer = listed.returncode == 0 or "Invalid job id" in listed.stderr
        if is_answer and not listed.stdout.strip():
            return
        time.sleep(5)
