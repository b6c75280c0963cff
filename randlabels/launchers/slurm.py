"""The Slurm launcher: a sweep as one array of jobs, requeued until their runs are done."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

from ..config import Config
from ..console import counted
from .job import Job
from .launcher import ANALYSIS, Errors, Launcher, PlannedRun, Until, refuse_on_failure

LOG_FOLDER = ".slurm"
"""Folder next to the runs, hidden from the tables: the jobs' scripts and output."""

SET_BY_LAUNCHER = (
    "array",
    "dependency",
    "error",
    "job-name",
    "open-mode",
    "output",
    "requeue",
    "signal",
    "wait",
)
"""Options of sbatch that `hydra.launcher.sbatch` must not contain."""

REQUESTED = ("partition", "account", "qos", "cpus", "gpus", "memory_gb", "minutes")
"""Keys that `plan=true` lists, with those of `sbatch`."""

COLLECT_MINUTES = 60  # time limit of the job that writes the tables; 5,000 runs take seconds

MAX_POLL_SECONDS = 10.0  # between two calls of squeue

PREFIX = "hydra.launcher."


@dataclass
class Slurm(Launcher):
    """`hydra/launcher=slurm`: submits all runs of a sweep through submitit.

    conf/hydra/launcher/slurm.yaml says what each key means.
    """

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
        for key in ("cpus", "minutes", "runs_per_job", "at_once", "notice"):
            if getattr(self, key) < 1:
                raise ValueError(f"{PREFIX}{key}={getattr(self, key)} must be at least 1")
        for key in ("gpus", "timeouts"):
            if getattr(self, key) < 0:
                raise ValueError(f"{PREFIX}{key}={getattr(self, key)} must be 0 or more")
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

    def check(self, runs: Sequence[PlannedRun]) -> None:
        """Find Slurm's commands and submitit.

        Raises:
            ValueError: one of them is missing, or the runs cannot be stopped from here.
        """
        refuse_on_failure(runs, self.name)
        for command in ("sbatch", "srun", "squeue", "scancel"):
            if shutil.which(command) is None:
                raise ValueError(
                    f"hydra/launcher=slurm needs Slurm's {command}, which is not on this machine; "
                    "launch from a login node, or use another launcher"
                )
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise ValueError("hydra/launcher=slurm needs submitit; pip install submitit") from error

    def request(self, runs: Sequence[PlannedRun]) -> str:
        keys = {key: getattr(self, key) for key in REQUESTED} | self.sbatch
        listed = ", ".join(f"{key}={value}" for key, value in keys.items() if value)
        return f"Of Slurm, an array of {counted(len(self.split(runs)), 'job')} with {listed} each."

    def count_workers(self, configs: Sequence[Config]) -> int:
        return self.at_once

    def start(self, runs: Sequence[PlannedRun], until: Until) -> Errors | None:
        """Submit the runs as one array, and after it a job for the tables of each folder.

        With `wait`, return when all jobs have ended.

        Raises:
            ValueError: sbatch refuses.
        """
        folder = runs[0].config.folder
        logs = folder.absolute() / LOG_FOLDER
        jobs = [
            Job(
                trees=[run.config.tree() for run in part],
                first=number * self.runs_per_job,
                cores=self.cpus,
                notice=self.notice,
            )
            for number, part in enumerate(self.split(runs))
        ]
        ids = [self.submit(logs, jobs, self.array_options(folder.name))]
        try:
            if self.collect:
                ids += self.submit_collectors(logs, ids[0], {run.config.folder for run in runs})
        finally:
            print(
                f"Submitted {counted(len(runs), 'run')} as Slurm job {ids[0]} ({len(jobs)} in its "
                f"array). Follow: python -m {ANALYSIS}.status {folder} --watch; "
                f"cancel: scancel {' '.join(ids)}; logs: {folder / LOG_FOLDER}",
                flush=True,
            )
        if not self.wait:
            return None
        wait(ids)
        return {}

    def split(self, runs: Sequence[PlannedRun]) -> list[Sequence[PlannedRun]]:
        """Return the runs of each job."""
        step = self.runs_per_job
        return [runs[first : first + step] for first in range(0, len(runs), step)]

    def array_options(self, name: str) -> dict[str, Any]:
        """Return submitit's parameters of the array."""
        others = {key.replace("_", "-"): value for key, value in self.sbatch.items()}
        return {
            **self.common_options(name),
            "time": self.minutes,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus or None,
            "mem": self.memory_gb,
            "array_parallelism": self.at_once,
            "signal_delay_s": self.notice,
            # since Slurm 22.05, srun does not inherit --cpus-per-task from sbatch
            "srun_args": [f"--cpus-per-task={self.cpus}"],
            "additional_parameters": {**others, "requeue": True},
        }

    def common_options(self, name: str) -> dict[str, Any]:
        """Return submitit's parameters of every job."""
        return {
            "job_name": name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "setup": [*export_environment(), *self.setup],
        }

    def submit_collectors(self, logs: Path, array: str, folders: set[Path]) -> list[str]:
        """Submit a job for the tables of each folder, to start when the array has ended."""
        from submitit.helpers import CommandFunction

        options = {
            **self.common_options(f"{logs.parent.name}-tables"),
            "time": COLLECT_MINUTES,
            "dependency": f"afterany:{array}",
        }
        commands = [
            [sys.executable, "-m", f"{ANALYSIS}.collect", str(folder.absolute())]
            for folder in sorted(folders)
        ]
        return [self.submit(logs, [CommandFunction(command)], options) for command in commands]

    def submit(self, logs: Path, jobs: Sequence[Any], options: Mapping[str, Any]) -> str:
        """Submit callables, several as an array, and return the job's id.

        Raises:
            ValueError: sbatch refuses.
        """
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError

        logs.mkdir(mode=0o700, parents=True, exist_ok=True)  # jobs execute what submitit puts there
        executor = SlurmExecutor(logs, max_num_timeout=self.timeouts)
        executor.update_parameters(**{k: v for k, v in options.items() if v is not None})
        try:
            with redirect_stderr(StringIO()):  # submitit prints there what it raises
                submitted = executor.submit_array(jobs)
        except FailedJobError as error:
            reasons = re.findall(r"sbatch: error: (.+)", str(error)) or [str(error)]
            raise ValueError(
                f"Slurm refuses {counted(len(jobs), 'job')}: {'; '.join(reasons)}"
            ) from error
        return str(submitted[0].job_id).partition("_")[0]


def export_environment() -> list[str]:
    """Return shell lines that give a job this process's folder, modules and data.

    Some sites do not export the environment to jobs.
    """
    lines = [f"cd {shlex.quote(str(Path.cwd()))}"]
    if path := os.environ.get("PYTHONPATH"):
        absolute = os.pathsep.join(str(Path(part).absolute()) for part in path.split(os.pathsep))
        lines.append(f"export PYTHONPATH={shlex.quote(absolute)}")
    if data := os.environ.get("RANDLABELS_DATA"):
        lines.append(f"export RANDLABELS_DATA={shlex.quote(str(Path(data).absolute()))}")
    return lines


def wait(ids: Sequence[str]) -> None:
    """Return when none of the Slurm jobs is pending or running.

    squeue forgets jobs some minutes after their end. When it fails otherwise, ask again.
    """
    delay = 1.0
    while True:
        listed = subprocess.run(
            ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(ids)}"],
            capture_output=True,
            text=True,
        )
        is_answer = listed.returncode == 0 or "Invalid job id" in listed.stderr
        if is_answer and not listed.stdout.strip():
            return
        time.sleep(delay)
        delay = min(1.5 * delay, MAX_POLL_SECONDS)
