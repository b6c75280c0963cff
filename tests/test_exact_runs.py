"""Runs of exact fits: what they write, refuse and share, and what a kill leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from randlabels import solve
from randlabels.kernels.cholesky import Triangle
from randlabels.store.rundir import read_json

from .conftest import Cli, numbers, only_run

KERNEL = ["model=kernel", "dataset=digits"]


def test_run_interpolates_random_labels_and_writes_one_record(cli: Cli, tmp_path: Path) -> None:
    outcome = cli(*KERNEL, "corrupt=1.0")
    assert outcome.code == 0 and "Acc-tr: 100.00" in outcome.out
    run = only_run(tmp_path)
    result = read_json(run / "done.json")
    assert result is not None
    assert result["epochs"] == 1 and result["parameters"] == 1442 * 10
    assert result["solution"]["relative_residual"] <= 1e-6
    assert result["final"]["train_acc"] == 1.0 and result["final"]["test_acc"] < 0.2
    assert not (run / "checkpoint.pt").exists() and not (run.parent / ".factors").exists()
    assert "Already done" in cli(*KERNEL, "corrupt=1.0").out


def count_factorisations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    original = Triangle.factorise

    def factorise(self: Triangle, *arguments: object) -> None:
        counted.append(self.n)
        original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Triangle, "factorise", factorise)
    return counted


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_sweep_has_one_factorisation(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    counted = count_factorisations(monkeypatch)
    sweep = ["corrupt=0.0,0.5,1.0", "corruption.seed=1,2", "seed=0,1"]
    outcome = cli("-m", *KERNEL, *sweep, f"hydra/launcher={launcher}")
    assert outcome.code == 0 and "12 done" in outcome.out and counted == [1442]
    # The numbers are those of a run on its own.
    monkeypatch.chdir(tmp_path)
    cli(*KERNEL, "corrupt=0.5", "corruption.seed=2", "name=alone")
    (alone,) = (tmp_path / "runs" / "alone").glob("kernel-*")
    together = tmp_path / "runs" / "default" / alone.name
    first, second = (read_json(run / "done.json")["final"] for run in (alone, together))  # type: ignore[index]
    assert first == pytest.approx(second, abs=1e-6)


def test_networks_and_kernels_share_a_sweep(cli: Cli) -> None:
    outcome = cli("-m", "dataset=digits", "model=linear,kernel", "plan=true")
    assert outcome.code == 0 and "2 planned" in outcome.out


@pytest.mark.parametrize("damage", ["truncated", 0.0, 3e7, float("nan")])
def test_processes_share_one_factorisation_through_a_file_that_damage_only_costs_time(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: float | str
) -> None:
    counted = count_factorisations(monkeypatch)
    for corrupt in (0.0, 0.5):
        assert cli(*KERNEL, f"corrupt={corrupt}", "model.cache=true").code == 0
    assert counted == [1442]
    (run,) = (tmp_path / "runs/default").glob("kernel-*-p0.5-*")
    right = read_json(run / "done.json")
    (cache,) = (tmp_path / "runs/default/.factors").glob("*.npy")
    if shorter := damage == "truncated":
        cache.write_bytes(cache.read_bytes()[:-1000])
    else:
        values = np.load(cache, mmap_mode="r+")
        values[0] = damage  # the first entry of the diagonal
        values.flush()
        del values
    again = [*KERNEL, "corrupt=0.5", "model.cache=true", "force=true"]
    outcome = cli(*KERNEL, "corrupt=1.0", "model.cache=true") if shorter else cli(*again)
    assert outcome.code == 0 and "is damaged and is replaced" in outcome.out
    assert not shorter or cli(*again).code == 0
    assert counted == [1442, 1442]
    found = read_json(run / "done.json")
    assert right is not None and found is not None
    assert (found["final"], found["solution"]) == (right["final"], right["solution"])
    assert cli(*KERNEL, "corrupt=0.2", "model.cache=true").code == 0 and len(counted) == 2


def test_patch_that_does_not_fit_is_refused_before_the_run_has_a_folder(
    cli: Cli, tmp_path: Path
) -> None:
    features = ("model.kernel=linear", "model.features=random_conv", "model.filters=10")
    outcome = cli(*KERNEL, *features, "model.patch=8")
    assert outcome.code == 1
    assert "model.patch=8 leaves no two patches on images of 8x8 pixels" in outcome.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("moment", ["factorise", "save"])
def test_killed_fit_leaves_nothing_that_hinders_the_next(
    cli: Cli, tmp_path: Path, moment: str
) -> None:
    """SIGKILL in the factorisation, or with half of the cache written."""
    code = f"""
import os, signal, sys
from randlabels.kernels.cholesky import Triangle
from randlabels import run
def die(self, *arguments):
    if {moment == "save"}:
        arguments[0].write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
Triangle.{moment} = die
sys.argv = ["randlabels", *{[*KERNEL, "corrupt=0.5", "model.cache=true"]!r}]
run.main()
"""
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    assert killed.returncode == -signal.SIGKILL
    started = time.perf_counter()
    assert cli(*KERNEL, "corrupt=0.5", "model.cache=true").code == 0
    assert time.perf_counter() - started < 60  # no lock is waited for
    assert {f.suffix for f in (tmp_path / "runs/default/.factors").iterdir()} <= {".npy", ".lock"}
    cli(*KERNEL, "corrupt=0.5", "name=undisturbed")
    runs = sorted((tmp_path / "runs").glob("*/kernel-*"))
    assert len(runs) == 2 and numbers(runs[0]) == numbers(runs[1])


def test_bad_input_is_one_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for override, message in {
        "epochs=5": "epochs=5 has no meaning for model=kernel",
        "optimizer.lr=0.1": "optimizer.lr=0.1 has no meaning",
        "schedule=cosine": "schedule=cosine has no meaning",
        "loss=gce": "loss=gce has no meaning",
        "precision=bf16": "precision=bf16 must be auto, fp32 or fp64 for model=kernel",
        "model.kernel=sinc": "model.kernel=sinc is unknown; use gaussian",
        "model.features=random_conv": "use model.kernel=linear",
        "model.ridge=-1": "model.ridge=-1.0 must be 0 or a positive number",
    }.items():
        outcome = cli(*KERNEL, override)
        assert outcome.code == 1 and message in outcome.err, override
        assert len(outcome.err.strip().splitlines()) == 1
    outcome = cli("dataset=digits", "model=mlp", "precision=fp64")
    assert "precision=fp64 must be auto, fp32 or bf16 for model=mlp" in outcome.err
    monkeypatch.setattr(solve, "free_memory", lambda device: 2**20)
    for threads, needed in {1: "0.5", 32: "1.7"}.items():
        outcome = cli(*KERNEL, f"threads={threads}")
        assert outcome.code == 1
        assert f"needs {needed} GiB of memory and 0.0 GiB are free" in outcome.err


def test_singular_system_names_the_remedy(cli: Cli, tmp_path: Path) -> None:
    """A linear kernel on 64 pixels has rank 64."""
    outcome = cli(*KERNEL, "model.kernel=linear")
    assert outcome.code == 1
    error = read_json(only_run(tmp_path) / "error.json")
    assert error is not None and "use a larger model.ridge or precision=fp64" in error["exception"]
    assert cli(*KERNEL, "model.kernel=linear", "model.ridge=1.0").code == 0


def test_double_precision_agrees(cli: Cli, tmp_path: Path) -> None:
    cli("-m", *KERNEL, "precision=fp32,fp64", "corrupt=0.5")
    first, second = (
        read_json(run / "done.json")["final"]  # type: ignore[index]
        for run in sorted((tmp_path / "runs").glob("*/kernel-*"))
    )
    assert first == pytest.approx(second, abs=1e-6)
