"""What Slurm's queue holds of a sweep: which job executes, or will execute, which run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..config import Config
from ..console import counted
from ..store.files import write_atomic

LOGS = ".slurm"
"""Folder beside the runs, hidden from the tables: what the jobs printed, and their scripts."""

ALIVE = "PENDING,RUNNING,SUSPENDED"
"""States of jobs that will do their work; one that was cancelled completes in another."""


def remember(logs: Path, jobs: Mapping[str, Sequence[Path]]) -> None:
    """Write `<array>_runs.txt` into `logs`: a line for each run, its job and its folder."""
    lines = [f"{job} {run.absolute()}\n" for job, runs in jobs.items() for run in runs]
    write_atomic(logs / f"{array(next(iter(jobs)))}_runs.txt", "".join(lines))


def logs_of(configs: Sequence[Config]) -> Path:
    """The folder that a launch of these runs is submitted from."""
    return configs[0].folder.absolute() / LOGS


def unqueued(configs: Sequence[Config]) -> tuple[list[Config], dict[Path, str]]:
    """The runs of a launch that no job in the queue executes or will, of those submitted from its
    folder; and of the others the job, by the run's folder.

    A run that failed is not tried again by a job that has started. Where the queue cannot be
    asked, nothing is in it: a job that finds its run finished or at work elsewhere ends.
    """
    if not configs:
        return [], {}
    logs = logs_of(configs)
    states = _jobs(logs)
    job_of: dict[Path, str] = {}
    for each in sorted({array(job) for job in states}, key=int):  # the newest has the last word
        file = logs / f"{each}_runs.txt"  # a job for the tables has none
        for line in file.read_text().splitlines() if file.is_file() else ():
            job, run = line.split(" ", 1)
            if job in states:
                job_of[Path(run)] = job
    left, held = [], {}
    for config in configs:
        path = config.run.path.absolute()
        state = states.get(job_of.get(path, ""))
        if state is None or (state != "PENDING" and config.run.state() == "failed"):
            left.append(config)
        else:
            held[path] = job_of[path]
    return left, held


def _jobs(logs: Path) -> dict[str, str]:
    """The states of the jobs in the queue that were submitted from `logs`, by their ids; these
    alone could be those of another cluster's jobs."""
    form = "--format=%i %T %o"
    try:
        asked = subprocess.run(
            ["squeue", "--me", "--all", "--array", "--noheader", f"--states={ALIVE}", form],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return {}
    lines = [line.split(" ", 2) for line in asked.stdout.splitlines()]
    return {job: state for job, state, script in lines if Path(script).parent == logs}


def told(held: Mapping[Path, str]) -> str:
    """A sentence about runs that are in the queue."""
    runs = f"{counted(len(held), 'run')} {'is' if len(held) == 1 else 'are'}"
    jobs = arrays(held)
    return (
        f"{runs} in Slurm's queue already and not submitted again (job {', '.join(jobs)}); "
        f"to submit anew: scancel {' '.join(jobs)}"
    )


def arrays(held: Mapping[Path, str]) -> list[str]:
    """The arrays of jobs, the oldest first."""
    return sorted({array(job) for job in held.values()}, key=int)


def array(job: str) -> str:
    """The array of a job: `1234` of `1234_7`; a job that is in none is its own."""
    return job.partition("_")[0]


def wait(ids: Sequence[str]) -> None:
    """Return when none of the Slurm jobs waits or runs any more.

    squeue forgets jobs some minutes after their end; while it cannot be asked, jobs may run.
    """
    delay = 1.0
    while True:
        asked = subprocess.run(
            ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(ids)}"],
            capture_output=True,
            text=True,
        )
        known = asked.returncode == 0 or "Invalid job id" in asked.stderr
        if known and not asked.stdout.strip():
            return
        time.sleep(delay)
        delay = min(1.5 * delay, 10.0)
