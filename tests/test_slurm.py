"""Sweeps through a real Slurm: preempted, timed out, failing, cancelled, launched twice."""

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
from .conftest import BASIC, TINY, Cli, untimed_lines
from .test_readme import my_parts

ROOT = Path(__file__).parent.parent
SLURM = "hydra/launcher=slurm"
LONG = ["dataset=digits", "model=mlp", "model.hidden=[8]", "batch_size=32", "checkpoint_every=1"]
"""1,500 epochs take one core about a minute."""


class Slurm(NamedTuple):
    """call: executes a command of Slurm's. until: waits for a condition."""

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
    """Slurm, chosen by environment variables; jobs import this checkout, and end with the test."""
    for name, value in {**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)

    def call(*command: str) -> str:
        return cluster.call(environment, *command)

    def until(what: Callable[[], object], seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, (
                f"{call('squeue', '-a')}\n{call('scontrol', 'show', 'job')}"
            )
            time.sleep(0.2)

    yield Slurm(call, until)
    call("scancel", "--user=root")


@pytest.fixture
def start_process() -> Iterator[Callable[[list[str]], subprocess.Popen[bytes]]]:
    """Starts a process, which is killed after the test."""
    with ExitStack() as stack:

        def start(command: list[str]) -> subprocess.Popen[bytes]:
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            stack.callback(process.kill)
            return process

        yield start


def submitted(out: str) -> str:
    """Return the id of the job that a launch submitted."""
    (job,) = re.findall(r"as Slurm job (\d+) ", out)
    return job


def epochs(run: RunDir) -> int:
    return len(run.metrics.read_bytes().splitlines()) if run.metrics.is_file() else 0


def states(folder: Path) -> dict[str, str]:
    """Return the states that `analysis.status` shows, by run id."""
    return {run["run_id"]: run["state"] for run in survey(folder)[0]}


@pytest.mark.slurm
@pytest.mark.timeout(600)
def test_two_preemptions_and_a_time_out_change_no_number(
    cli: Cli,
    slurm: Slurm,
    tmp_path: Path,
    start_process: Callable[[list[str]], subprocess.Popen[bytes]],
) -> None:
    """The first run is requeued twice by hand, the second by its time limit. The tables follow
    both. `force` sets earlier results aside once."""
    sweep = ["-m", *LONG, "epochs=500,2500", "corrupt=0.5"]
    undisturbed = start_process(
        [sys.executable, "-m", "randlabels.run", *sweep, BASIC, "out=alone"]
    )
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
        """One time-out is enough."""
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
        assert untimed_lines(run.path) == untimed_lines(tmp_path / "alone" / "default" / run.run_id)
        (aside,) = (run.path.parent / ".replaced").glob(f"{run.run_id}.*")
        assert (aside / "earlier").is_file() and not (aside / "metrics.jsonl").exists()


@pytest.mark.slurm
def test_exact_fits_of_one_job_share_a_factorisation_and_the_cores_of_the_job(
    cli: Cli, slurm: Slurm, tmp_path: Path
) -> None:
    waiting = [f"hydra.launcher.{key}" for key in ("wait=true", "cpus=2", "runs_per_job=2")]
    kernel = ["-m", "dataset=digits", "dataset.train_size=200", "model=kernel", "corrupt=0.0,1.0"]
    outcome = cli(*kernel, SLURM, *waiting)
    assert outcome.code == 0
    assert "2 runs in runs/default: 2 done" in outcome.out
    runs = [RunDir(path.parent) for path in tmp_path.glob("runs/default/*/done.json")]
    texts = [run.log.read_text() for run in runs]
    assert len(texts) == 2
    assert all("2 label sets solved" in text for text in texts)
    assert {json.loads(run.environment.read_text())["threads"] for run in runs} == {2}
    assert (tmp_path / "runs" / "default" / "summary" / "test_error.csv").is_file()


@pytest.mark.slurm
def test_failing_run_does_not_stop_the_others_of_its_job_and_is_reported(
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
def test_scancel_interrupts_a_sweep_and_the_same_command_continues_it(
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
def test_second_job_of_a_running_run_ends_at_once_and_changes_nothing(
    cli: Cli, slurm: Slurm, tmp_path: Path
) -> None:
    """The same command is launched again while the first job executes the run."""
    sweep = ["-m", *LONG, "epochs=100000", SLURM, "hydra.launcher.collect=false", "verbose=true"]
    first = submitted(cli(*sweep).out)
    slurm.until(lambda: any(tmp_path.glob("runs/*/*/checkpoint.pt")))
    (run,) = (RunDir(path.parent) for path in tmp_path.glob("runs/*/*/checkpoint.pt"))
    second = cli(*sweep, "hydra.launcher.wait=true")
    assert second.code == 0 and "1 run in runs/default: 1 running" in second.out
    logs = run.path.parent / ".slurm"
    texts = [file.read_text() for file in logs.glob(f"{submitted(second.out)}_*_log.out")]
    assert "This run is being executed by pid" in "".join(texts)
    assert run.state() == "running" and "Resuming" not in run.log.read_text()
    assert slurm.call("squeue", "--noheader", "--format=%F").split() == [first]


@pytest.mark.slurm
def test_jobs_import_own_parts(cli: Cli, slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "my_parts.py").write_text(my_parts())
    own = ["imports=my_parts.py", "model=tiny", "corruption=lazy", "dataset=digits", "epochs=1"]
    outcome = cli("-m", *own, SLURM, "hydra.launcher.collect=false", "hydra.launcher.wait=true")
    assert outcome.code == 0 and "1 run in runs/default: 1 done" in outcome.out


@pytest.mark.slurm
def test_refusal_of_sbatch_is_one_sentence_and_submits_nothing(
    cli: Cli, slurm: Slurm, tmp_path: Path
) -> None:
    outcome = cli("-m", *TINY, SLURM, "hydra.launcher.partition=nosuch")
    assert outcome.code == 1
    assert outcome.err.startswith("Error: Slurm refuses 1 job: ")
    assert "invalid partition specified: nosuch" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert "Submitted" not in outcome.out
    assert slurm.call("squeue", "--noheader", "--states=PENDING").strip() == ""
    assert not list(tmp_path.glob("runs/default/mlp-*"))
