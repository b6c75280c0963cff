"""Sweeps through a real Slurm: preempted, timed out, failing, cancelled; and its keys."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from analysis.status import survey
from randlabels import run as entry
from randlabels.rundir import RunDir

from . import cluster
from .conftest import BASIC, TINY, Cli, numbers

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "slurm.md").read_text()
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
def slurm(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Slurm, chosen for this process; jobs import this checkout."""
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

    return Slurm(call, until)


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
    return {run["run_id"]: run["state"] for run in survey(folder, {})[0]}


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
    assert "1 runs, 1 of them to do" in cli(*sweep, SLURM).out


@pytest.mark.slurm
def test_what_slurm_refuses_ends_as_one_sentence(cli: Cli, slurm: Slurm) -> None:
    outcome = cli("-m", *TINY, SLURM, "hydra.launcher.partition=nosuch")
    assert outcome.code == 1
    assert outcome.err.startswith("Error: Slurm refuses 1 job: ")
    assert "invalid partition specified: nosuch" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("cpus=0", "hydra.launcher.cpus=0 must be at least 1"),
        ("cpus=many", "hydra.launcher.cpus=many has the wrong type; give a whole number"),
        ("gpus=-1", "hydra.launcher.gpus=-1 must be 0 or more"),
        ("memory_gb=0", "hydra.launcher.memory_gb=0.0 must be above 0 GB, or null"),
        ("minutes=2", "hydra.launcher.notice=120 seconds leave nothing of minutes=2"),
        ("+sbatch.open_mode=append", "hydra.launcher.sbatch.open_mode is set by the launcher"),
        ("nosuch=1", "hydra.launcher.nosuch is no key of the chosen options"),
        ("time=1", "takes workers, concurrency; slurm takes partition, account, qos, cpus, gpus, "),
        ("setup=module", "has the wrong type; give a list of texts such as ['module load cuda']"),
        ("+nosuch=1", "hydra.launcher.nosuch is no known key; hydra.launcher=slurm takes account"),
    ],
)
def test_a_bad_key_is_refused_before_anything_is_submitted(
    cli: Cli, tmp_path: Path, override: str, sentence: str
) -> None:
    key = override.lstrip("+")
    plus = override.removesuffix(key)
    outcome = cli("-m", *TINY, SLURM, f"{plus}hydra.launcher.{key}")
    assert outcome.code == 1 and sentence in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_without_slurm_a_sweep_is_refused_but_can_be_planned_for_other_devices(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for model in ("model=mlp", "model=kernel"):
        outcome = cli("-m", "dataset=digits", model, SLURM, "device=cuda", "plan=true")
        assert outcome.code == 0 and "1 run in runs/default: 1 planned" in outcome.out
        assert "Of Slurm, an array of 1 job with cpus=1, minutes=240 each." in outcome.out
    outcome = cli("-m", *TINY, SLURM, "device=cuda")
    assert outcome.code == 1 and "needs Slurm's sbatch, which is not on this machine" in outcome.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["slurm", "mine"])
def test_a_single_run_is_not_executed_here_by_mistake(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a site's own launcher, which is ours with other defaults."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf", symlinks=True)
    os.symlink(ROOT / "sweeps", tmp_path / "sweeps")
    own = tmp_path / "conf" / "hydra" / "launcher" / "mine.yaml"
    (written,) = re.findall(r"```yaml\n# \S+\n(.*?)```", DOCS, re.S)
    own.write_text(written)
    monkeypatch.setattr(entry, "CONF", tmp_path / "conf")
    outcome = cli(*TINY, f"hydra/launcher={name}")
    assert outcome.err == f"Error: hydra/launcher={name} submits sweeps; add -m, for one run too\n"
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = cli("-m", *TINY, f"hydra/launcher={name}")
    assert "needs Slurm's sbatch" in outcome.err
    planned = cli("-m", *TINY, "seed=0,1,2", f"hydra/launcher={name}", "plan=true").out
    asked = {"slurm": "cpus=1", "mine": "partition=gpu, cpus=4, gpus=1"}[name]
    assert f"Of Slurm, an array of 3 jobs with {asked}, minutes=240 each." in planned


def test_a_launcher_is_chosen_with_a_slash(cli: Cli) -> None:
    outcome = cli("-m", *TINY, "hydra.launcher=slurm")
    assert outcome.code == 1
    assert outcome.err == (
        "Error: a launcher is chosen with a slash, hydra/launcher=NAME; its keys have dots\n"
    )


def test_every_key_is_documented_with_its_default() -> None:
    keys = yaml.safe_load((ROOT / "conf" / "hydra" / "launcher" / "slurm.yaml").read_text())
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", DOCS, re.M))
    del keys["_target_"]
    assert {key: yaml.safe_load(value) for key, value in rows.items()} == keys
    assert len(DOCS.splitlines()) < 120
