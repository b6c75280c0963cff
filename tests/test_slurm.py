"""Sweeps through a real Slurm: preempted, timed out, failing, cancelled; and its keys."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from analysis.status import survey
from randlabels.store.rundir import RunDir

from . import cluster
from .conftest import BASIC, TINY, Cli, numbers

ROOT = Path(__file__).parent.parent
SLURM = "hydra/launcher=slurm"
LONG = ["dataset=digits", "model=mlp", "model.hidden=[8]", "batch_size=32", "checkpoint_every=1"]
"""With 1,500 epochs, a minute's work for one core; with 500, a third of it."""


class Slurm(NamedTuple):
    """How to ask it, and how to wait for something."""

    call: Callable[..., str]
    until: Callable[..., None]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if reason := cluster.missing():
        pytest.skip(reason)
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("no submitit: pip install 'randlabels[slurm]'")
    with cluster.running(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


@pytest.fixture
def slurm(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Slurm, chosen for this process; jobs import this checkout, and end with the test."""
    for name, value in {**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)

    def call(*command: str) -> str:
        return cluster.call(environment, *command)

    def until(what: Callable[[], object], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, (
                f"{call('squeue', '-a')}\n{call('scontrol', 'show', 'job')}"
            )
            time.sleep(0.2)

    yield Slurm(call, until)
    call("scancel", "--user=root")


@pytest.fixture
def beside() -> Iterator[Callable[[list[str]], subprocess.Popen[bytes]]]:
    """Starts a process, which does not outlive the test."""
    with ExitStack() as stack:

        def start(command: list[str]) -> subprocess.Popen[bytes]:
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            stack.callback(process.kill)
            return process

        yield start


def submitted(out: str) -> str:
    (job,) = re.findall(r"as Slurm job (\d+) ", out)
    return job


def epochs(run: RunDir) -> int:
    return len(run.metrics.read_bytes().splitlines()) if run.metrics.is_file() else 0


def states(folder: Path) -> dict[str, str]:
    """What `analysis.status` tells, by run id."""
    return {run["run_id"]: run["state"] for run in survey(folder)[0]}


@pytest.mark.slurm
def test_two_preemptions_and_a_time_out_change_no_number(
    cli: Cli, slurm: Slurm, tmp_path: Path, beside: Callable[[list[str]], subprocess.Popen[bytes]]
) -> None:
    """The first run is requeued twice by hand, the second by its time limit; the tables come
    after both, and the earlier results that `force` sets aside stay set aside once."""
    sweep = ["-m", *LONG, "epochs=500,4000", "corrupt=0.5"]
    undisturbed = beside([sys.executable, "-m", "randlabels.run", *sweep, BASIC, "out=alone"])
    planned = cli(*sweep, "plan=true").out
    first, second = (
        RunDir(tmp_path / "runs" / "default" / name)
        for name in re.findall(r"mlp-digits-uniform-p0.5-s0-[0-9a-f]{8}", planned)
    )
    for run in (first, second):
        run.path.mkdir(parents=True)
        (run.path / "earlier").touch()

    limits = ["hydra.launcher.minutes=1", "hydra.launcher.notice=50", "force=true"]
    outcome = cli(*sweep, SLURM, *limits)
    assert outcome.code == 0 and "2 runs, 2 of them to do" in outcome.out
    job = submitted(outcome.out)
    slurm.call("scontrol", "update", f"JobId={job}_0", "TimeLimit=30")  # requeued by hand only
    assert set(states(first.path.parent).values()) <= {"planned", "running"}

    def resumptions(run: RunDir) -> int:
        return run.log.read_text().count("Resuming") if run.log.is_file() else 0

    def relax() -> bool:
        """Further time-outs teach nothing."""
        if resumptions(second):
            slurm.call("scontrol", "update", f"JobId={job}_1", "TimeLimit=30")
        return True

    earlier = 0
    for _ in range(2):
        slurm.until(lambda least=earlier: relax() and epochs(first) and resumptions(first) >= least)
        begun = epochs(first)
        slurm.until(lambda begun=begun: relax() and epochs(first) > begun + 60)
        assert states(first.path.parent)[first.run_id] == "running"
        earlier = resumptions(first) + 1
        assert slurm.call("scontrol", "requeue", f"{job}_0") == ""
    slurm.until(lambda: relax() and not slurm.call("squeue", "-h", "-j", job).strip())
    assert resumptions(first) >= 2 and resumptions(second) >= 1
    logs = second.path.parent / ".slurm"
    assert "this job is timed-out" in "".join(f.read_text() for f in logs.glob(f"{job}_1_*_log.*"))

    table = second.path.parent / "summary" / "runs.csv"
    slurm.until(table.is_file)
    assert [line.split(",")[1] for line in table.read_text().splitlines()[1:]] == ["done"] * 2
    assert undisturbed.wait(timeout=120) == 0
    for run in (first, second):
        assert numbers(run.path) == numbers(tmp_path / "alone" / "default" / run.run_id)
        (aside,) = (run.path.parent / ".replaced").glob(f"{run.run_id}.*")
        assert (aside / "earlier").is_file() and not (aside / "metrics.jsonl").exists()


@pytest.mark.slurm
def test_jobs_of_a_kernel_sweep_share_one_factorisation_and_their_cores(
    cli: Cli, slurm: Slurm, tmp_path: Path
) -> None:
    waiting = ["hydra.launcher.wait=true", "hydra.launcher.cpus=2"]
    kernel = ["-m", "dataset=digits", "dataset.train_size=200", "model=kernel", "corrupt=0.0,1.0"]
    outcome = cli(*kernel, SLURM, *waiting)
    assert outcome.code == 0
    assert "2 runs in runs/default: 2 done" in outcome.out
    runs = [RunDir(path.parent) for path in tmp_path.glob("runs/default/*/done.json")]
    texts = [run.log.read_text() for run in runs]
    assert len(texts) == 2
    assert sum("factorised in" in text for text in texts) == 1
    assert sum("Factorisation found" in text for text in texts) == 1
    assert {json.loads(run.environment.read_text())["threads"] for run in runs} == {2}
    assert (tmp_path / "runs" / "default" / "summary" / "test_error.csv").is_file()


@pytest.mark.slurm
def test_a_failing_run_costs_no_other_and_the_waiting_launch_reports_it(
    cli: Cli, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runs in one job, in a folder with a space."""
    folder = tmp_path / "a b"
    folder.mkdir()
    data = tmp_path / "data"
    monkeypatch.setenv("RANDLABELS_DATA", str(data))
    sweep = ["-m", *TINY, "corrupt=0.0,1.0", f"out={folder}"]
    planned = cli(*sweep, "plan=true").out
    broken = re.findall(r"mlp-digits-uniform-p0-s0-[0-9a-f]{8}", planned)[0]
    (folder / "default" / broken / "metrics.jsonl").mkdir(parents=True)

    waiting = ["hydra.launcher.wait=true", "hydra.launcher.runs_per_job=2"]
    outcome = cli(*sweep, SLURM, *waiting, "hydra.launcher.collect=false")
    assert outcome.code == 1
    assert "1 done, 1 failed" in " ".join(outcome.out.split())  # a long path wraps
    assert f"{broken}: failed, IsADirectoryError" in outcome.out
    script = (folder / "default" / ".slurm" / f"{submitted(outcome.out)}_submission.sh").read_text()
    assert f"export RANDLABELS_DATA={data}" in script
    assert oct((folder / "default" / ".slurm").stat().st_mode)[-3:] == "700"

    (folder / "default" / broken / "metrics.jsonl").rmdir()
    again = cli(*sweep, SLURM, *waiting)
    assert again.code == 0 and "2 runs, 1 of them to do" in again.out


@pytest.mark.slurm
def test_scancel_ends_a_sweep_and_the_same_command_goes_on(
    cli: Cli, slurm: Slurm, tmp_path: Path
) -> None:
    sweep = ["-m", *LONG, "epochs=100000"]
    job = submitted(cli(*sweep, SLURM, "hydra.launcher.collect=false").out)
    slurm.until(lambda: any(tmp_path.glob("runs/*/*/checkpoint.pt")))
    (run,) = (RunDir(path.parent) for path in tmp_path.glob("runs/*/*/checkpoint.pt"))
    slurm.call("scancel", job)
    slurm.until(lambda: not slurm.call("squeue", "-h", "-j", job).strip())
    assert run.state() == "interrupted"
    assert states(run.path.parent) == {run.run_id: "interrupted"}
    assert "1 run, 1 of them to do" in cli(*sweep, SLURM).out


@pytest.mark.slurm
def test_a_repeated_launch_submits_only_what_no_job_in_the_queue_will_do(
    cli: Cli, slurm: Slurm, tmp_path: Path
) -> None:
    """Jobs that are held wait for ever, until they are cancelled."""
    held = ["hydra.launcher.collect=false", "+hydra.launcher.sbatch.hold=true"]
    folder = tmp_path / "runs" / "default"

    def submits(seeds: str, *keys: str) -> tuple[list[str], str]:
        """Seeds of the runs that a launch submits, and its output."""
        out = cli("-m", *TINY, f"seed={seeds}", SLURM, *held, *keys).out
        jobs = re.findall(r"as Slurm job (\d+) ", out)
        lines = "".join((folder / ".slurm" / f"{job}_runs.txt").read_text() for job in jobs)
        return re.findall(r"-s(\d)-", lines), out

    seeds, out = submits("0,1")
    array = submitted(out)
    assert seeds == ["0", "1"]
    sentence = (
        "{} in Slurm's queue already and not submitted again (job {}); to submit anew: scancel"
    )
    seeds, out = submits("0,1")
    assert seeds == [] and f"to submit anew: scancel {array}\n" in out
    assert sentence.format("2 runs are", array) in out
    planned = submits("0,1,2", "plan=true")[1]
    assert sentence.format("2 runs are", array) in planned and "an array of 1 job with" in planned
    seeds, out = submits("0,1,2", "hydra.launcher.runs_per_job=2")
    single = submitted(out)
    assert seeds == ["2"] and sentence.format("2 runs are", array) in out
    out = submits("0,1,2")[1]
    assert sentence.format("3 runs are", f"{array}, {single}") in out

    slurm.call("scancel", f"{array}_1")
    assert submits("0,1,2")[0] == ["1"]
    assert "Submitted 2 runs" in cli("-m", *TINY, "seed=0,1", SLURM, *held, "name=another").out
    slurm.call("scancel", "--user=root")
    (run,) = (path for path in cli("-m", *TINY, "plan=true").out.split() if path.startswith("mlp-"))
    held[1:] = ["hydra.launcher.cpus=1"]
    (folder / run / "metrics.jsonl").mkdir(parents=True)
    submits("0")
    slurm.until(lambda: states(folder)[run] == "failed")
    (folder / run / "metrics.jsonl").rmdir()
    assert submits("0")[0] == ["0"], "a job that has started does not try again what failed"


@pytest.mark.slurm
def test_what_slurm_refuses_ends_as_one_sentence_and_leaves_nothing(
    cli: Cli, slurm: Slurm, tmp_path: Path
) -> None:
    outcome = cli("-m", *TINY, SLURM, "hydra.launcher.partition=nosuch")
    assert outcome.code == 1
    assert outcome.err.startswith("Error: Slurm refuses 1 job: ")
    assert "invalid partition specified: nosuch" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slurm
def test_jobs_that_can_only_wait_are_submitted_once(cli: Cli, slurm: Slurm) -> None:
    """`sbatch --test-only` refuses them: no node that is up has so many cores."""
    keys = [f"hydra.launcher.cpus={2 * cluster.CPUS}", "hydra.launcher.collect=false"]
    job = submitted(cli("-m", *TINY, "seed=0,1", SLURM, *keys).out)
    waiting = slurm.call("squeue", "--noheader", "--states=PENDING", "--format=%F").split()
    slurm.call("scancel", job)
    assert waiting == [job]
