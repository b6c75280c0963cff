"""The Slurm launcher: a sweep as one array of jobs, which go on after whatever stops them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ..config import Config
from ..console import counted
from ..machine.stopping import uninterrupted
from ..schema import parse_dataclass, to_plain
from .job import Job
from .queue import LOGS, array, arrays, logs_of, remember, told, unqueued, wait

OWN = {
    "array",
    "dependency",
    "error",
    "job-name",
    "open-mode",
    "output",
    "requeue",
    "signal",
    "wait",
}
"""Options of sbatch that the launcher sets itself; `sbatch` takes all others."""

ASKED = ("partition", "account", "qos", "cpus", "gpus", "memory_gb", "minutes")
"""The keys that say what a job asks for."""

COLLECT_MINUTES = 60
"""Time limit of the job that writes the tables; 5,000 runs take seconds."""


@dataclass
class Keys:
    """The keys `hydra.launcher.*`; conf/hydra/launcher/slurm.yaml says what each means."""

    name: ClassVar[str] = "slurm"
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
                f"{PREFIX}notice={self.notice} seconds leave nothing of minutes={self.minutes}; "
                "give a shorter notice or more minutes"
            )
        for key in self.sbatch:
            if key.replace("_", "-") in OWN:
                raise ValueError(f"{PREFIX}sbatch.{key} is set by the launcher; leave it out")


PREFIX = "hydra.launcher."


class SlurmLauncher(Launcher):
    """`hydra/launcher=slurm`: submits all runs of a sweep through submitit."""

    def __init__(self, **keys: Any) -> None:
        self.given = keys

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Read the keys.

        Raises:
            ValueError: a key has a wrong type or value.
        """
        self.keys: Keys = parse_dataclass(Keys, to_plain(OmegaConf.create(self.given)), PREFIX)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        raise ValueError("hydra/launcher=slurm works with hydra/sweeper=grid only; use that")

    def check(self, configs: Sequence[Config]) -> None:
        """Find out whether the runs can be submitted from here, before anything is written.

        Raises:
            ValueError: they cannot, or Slurm refuses their array or the job for the tables.
        """
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
        left, _ = unqueued(configs)
        if left:
            logs = logs_of(left)
            self._ask(logs, len(self._parts(left)), self._resources(logs.parent.name))
            if self.keys.collect:
                self._ask(logs, 1, self._collector(logs.parent.name))

    def request(self, configs: Sequence[Config]) -> str:
        """What Slurm would be asked for, in a sentence; and one of the runs in its queue."""
        left, held = unqueued(configs)
        given = {key: getattr(self.keys, key) for key in ASKED} | self.keys.sbatch
        asked = ", ".join(f"{key}={value}" for key, value in given.items() if value)
        jobs = counted(len(self._parts(left)), "job")
        new = f"Of Slurm, an array of {jobs} with {asked} each."
        return f"{told(held)}\n{new}" if held else new

    def submit(self, configs: Sequence[Config], analysis: str) -> None:
        """Submit the runs as one array, and after it a job for the tables of each folder.

        Runs that are in the queue already are left to their jobs. With `wait`, stay until all have
        ended. `analysis` is the package that collects.

        Raises:
            ValueError: Slurm refuses the array.
        """
        left, held = unqueued(configs)
        ids = arrays(held)
        if held:
            print(told(held), flush=True)
        if left:
            ids += self._submit(left, analysis)
        if self.keys.wait:
            wait(ids)

    def _submit(self, configs: Sequence[Config], analysis: str) -> list[str]:
        """Submit the runs and the jobs for the tables, and say so; the ids of array and jobs."""
        logs = logs_of(configs)
        parts = self._parts(configs)
        jobs = [
            Job(
                [config.tree() for config in part],
                first=number * self.keys.runs_per_job,
                cores=self.keys.cpus,
                notice=self.keys.notice,
            )
            for number, part in enumerate(parts)
        ]
        submitted = self._sbatch(logs, jobs, self._resources(logs.parent.name))
        runs = {j: [c.run.path for c in part] for j, part in zip(submitted, parts, strict=True)}
        remember(logs, runs)
        ids = [array(submitted[0])]
        if self.keys.collect:
            from submitit.helpers import CommandFunction

            after = {**self._collector(logs.parent.name), "dependency": f"afterany:{ids[0]}"}
            for each in sorted({config.folder.absolute() for config in configs}):
                command = [sys.executable, "-m", f"{analysis}.collect", str(each)]
                ids += self._sbatch(logs, [CommandFunction(command)], after)
        where = sorted({str(config.folder) for config in configs})
        print(
            f"Submitted {counted(len(configs), 'run')} as Slurm job {ids[0]} "
            f"({len(jobs)} in its array). Follow: python -m {analysis}.status {where[0]} --watch; "
            f"cancel: scancel {' '.join(ids)}; logs: {Path(where[0]) / LOGS}",
            flush=True,
        )
        return ids

    def _parts(self, configs: Sequence[Config]) -> list[Sequence[Config]]:
        """The runs of each job."""
        step = self.keys.runs_per_job
        return [configs[first : first + step] for first in range(0, len(configs), step)]

    def _resources(self, name: str) -> dict[str, Any]:
        """submitit's parameters of the array."""
        keys = self.keys
        others = {key.replace("_", "-"): value for key, value in keys.sbatch.items()}
        return {
            **self._site(name),
            "time": keys.minutes,
            "cpus_per_task": keys.cpus,
            "gpus_per_node": keys.gpus or None,
            "mem": keys.memory_gb,
            "array_parallelism": keys.at_once,
            "signal_delay_s": keys.notice,
            # srun does not take the cores over from sbatch since Slurm 22.05
            "srun_args": [f"--cpus-per-task={keys.cpus}"],
            "additional_parameters": {**others, "requeue": True},
        }

    def _collector(self, name: str) -> dict[str, Any]:
        """submitit's parameters of the job that writes the tables."""
        return {**self._site(f"{name}-tables"), "time": COLLECT_MINUTES}

    def _site(self, name: str) -> dict[str, Any]:
        """What every job is submitted with: who asks, and the environment of this process."""
        return {
            "job_name": name,
            "partition": self.keys.partition,
            "account": self.keys.account,
            "qos": self.keys.qos,
            "setup": [*_environment(), *self.keys.setup],
        }

    def _executor(self, logs: Path, parameters: Mapping[str, Any]) -> Any:
        from submitit import SlurmExecutor

        executor = SlurmExecutor(logs, max_num_timeout=self.keys.timeouts)
        executor.update_parameters(
            **{key: value for key, value in parameters.items() if value is not None}
        )
        return executor

    def _ask(self, logs: Path, jobs: int, parameters: Mapping[str, Any]) -> None:
        """ValueError if Slurm refuses an array of as many jobs."""
        executor = self._executor(logs, parameters)
        if jobs > 1:
            executor.parameters["map_count"] = jobs
        script = executor._make_submission_file_text("true", "")

        def sbatch(*options: str) -> subprocess.CompletedProcess[str]:
            command = ["sbatch", *options]
            return subprocess.run(command, input=script, capture_output=True, text=True)

        if sbatch("--test-only").returncode == 0:
            return
        # It may be that they could only wait, for a node that is down: those are accepted.
        with uninterrupted():
            held = sbatch("--hold", "--parsable")
            if held.returncode:
                raise _refusal(jobs, held.stderr)
            job, _, cluster = held.stdout.strip().partition(";")
            cancel = ["scancel", *(["--clusters", cluster] if cluster else []), job]
            if subprocess.run(cancel).returncode:
                raise ValueError(
                    f"Slurm took job {job}, which only asked whether it would, and does not give "
                    f"it back; try {' '.join(cancel)}"
                )

    def _sbatch(self, logs: Path, jobs: Sequence[Any], parameters: Mapping[str, Any]) -> list[str]:
        """Submit callables; the ids of their jobs."""
        from submitit.core.utils import FailedJobError

        logs.mkdir(mode=0o700, parents=True, exist_ok=True)  # jobs execute what submitit puts there
        try:
            with redirect_stderr(StringIO()):  # where submitit repeats what it raises
                submitted = self._executor(logs, parameters).submit_array(jobs)
        except FailedJobError as error:
            raise _refusal(len(jobs), str(error)) from error
        return [str(job.job_id) for job in submitted]


def _refusal(jobs: int, said: str) -> ValueError:
    """What sbatch said, in a sentence."""
    lines = re.findall(r"sbatch: error: (.+)", said) or [said]
    return ValueError(f"Slurm refuses {counted(jobs, 'job')}: {'; '.join(lines)}")


def _environment() -> list[str]:
    """Shell lines that give a job this process's folder, modules and data, even where a site
    does not export the environment."""
    lines = [f"cd {shlex.quote(str(Path.cwd()))}"]
    if path := os.environ.get("PYTHONPATH"):
        absolute = os.pathsep.join(str(Path(part).absolute()) for part in path.split(os.pathsep))
        lines.append(f"export PYTHONPATH={shlex.quote(absolute)}")
    if data := os.environ.get("RANDLABELS_DATA"):
        lines.append(f"export RANDLABELS_DATA={shlex.quote(str(Path(data).absolute()))}")
    return lines
