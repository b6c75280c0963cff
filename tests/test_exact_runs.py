"""Runs of exact fits: what they write, refuse and share, and what a kill leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from randlabels.cli import compose
from randlabels.config import parse
from randlabels.kernels.cholesky import Triangle
from randlabels.model import SolveOptions
from randlabels.model.kernel import Kernel
from randlabels.store.rundir import read_json

from .conftest import Cli, only_run, untimed_lines

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
    assert not (run / "checkpoint.pt").exists()
    assert "Already done" in cli(*KERNEL, "corrupt=1.0").out


def count_factorisations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    original = Triangle.factorise

    def factorise(self: Triangle, *arguments: object) -> None:
        counted.append(self.n)
        original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Triangle, "factorise", factorise)
    return counted


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_sweep_has_one_factorisation(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    counted = count_factorisations(monkeypatch)
    sweep = ["corrupt=0.0,0.5,1.0", "corruption.seed=1,2", "seed=0,1"]
    outcome = cli("-m", *KERNEL, *sweep, f"hydra/launcher={launcher}")
    assert outcome.code == 0 and "12 done" in outcome.out and counted == [1442]
    # The numbers are those of a single run.
    monkeypatch.chdir(tmp_path)
    cli(*KERNEL, "corrupt=0.5", "corruption.seed=2", "name=alone")
    (alone,) = (tmp_path / "runs" / "alone").glob("kernel-*")
    together = tmp_path / "runs" / "default" / alone.name
    first, second = (read_json(run / "done.json")["final"] for run in (alone, together))  # type: ignore[index]
    assert first == pytest.approx(second, abs=1e-6)


def test_refused_fit_stops_no_fit_of_another_system(cli: Cli, tmp_path: Path) -> None:
    small = [*KERNEL, "dataset.train_size=64"]
    first, second = (
        tmp_path / compose([*small, f"model.kernel={kernel}"]).run.path
        for kernel in ("gaussian", "laplacian")
    )
    first.parent.mkdir(parents=True)
    first.symlink_to(tmp_path)
    outcome = cli("-m", *small, "model.kernel=gaussian,laplacian")
    assert outcome.code == 1 and f"{first.name} is a link" in outcome.out + outcome.err
    assert (second / "done.json").exists()


def test_networks_and_kernels_share_a_sweep(cli: Cli) -> None:
    outcome = cli("-m", "dataset=digits", "model=linear,kernel", "plan=true")
    assert outcome.code == 0 and "2 planned" in outcome.out


def test_patch_that_does_not_fit_is_refused_before_the_run_has_a_folder(
    cli: Cli, tmp_path: Path
) -> None:
    features = ("model.kernel=linear", "model.features=random_conv", "model.filters=10")
    outcome = cli(*KERNEL, *features, "model.patch=8")
    assert outcome.code == 1
    assert "model.patch=8 leaves no two patches on images of 8x8 pixels" in outcome.err
    assert not (tmp_path / "runs").exists()


def test_killed_fit_leaves_nothing_that_hinders_the_next(cli: Cli, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from randlabels.kernels.cholesky import Triangle
from randlabels import run
Triangle.factorise = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = ["randlabels", *{[*KERNEL, "corrupt=0.5"]!r}]
run.main()
"""
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert cli(*KERNEL, "corrupt=0.5").code == 0
    cli(*KERNEL, "corrupt=0.5", "name=undisturbed")
    runs = sorted((tmp_path / "runs").glob("*/kernel-*"))
    assert len(runs) == 2 and untimed_lines(runs[0]) == untimed_lines(runs[1])


@pytest.mark.slow
def test_bad_input_is_one_sentence(cli: Cli) -> None:
    for override, message in {
        "epochs=5": "epochs=5 has no meaning for model=kernel",
        "optimizer.lr=0.1": "optimizer.lr=0.1 has no meaning",
        "schedule=cosine": "schedule=cosine has no meaning",
        "loss=gce": "loss=gce has no meaning",
        "precision=bf16": "precision=bf16 must be auto, fp32 or fp64 for model=kernel",
        "model.cache=true": "cache",
        "model.kernel=sinc": "model.kernel=sinc must be gaussian, laplacian, polynomial or linear",
        "model.features=random_conv": "use model.kernel=linear",
        "model.ridge=-1": "model.ridge=-1.0 must be 0 or a positive number",
    }.items():
        outcome = cli(*KERNEL, override)
        assert outcome.code == 1 and message in outcome.err, override
        assert len(outcome.err.strip().splitlines()) == 1
    outcome = cli("dataset=digits", "model=mlp", "precision=fp64")
    assert "precision=fp64 must be auto, fp32 or bf16 for model=mlp" in outcome.err


def test_lack_of_memory_is_refused_and_names_a_precision_that_fits(
    cli: Cli, tmp_path: Path, limit_memory: Callable[[int], None]
) -> None:
    """On 1,442 images the matrix makes the difference: 16 MiB in fp64, 8 MiB in fp32."""
    config = parse({"dataset": {"name": "digits"}, "model": {"name": "kernel"}})
    images = config.dataset.load().train.images[:1442]
    single, double = (
        Kernel().check(images, 355, 10, SolveOptions(dtype))
        for dtype in (torch.float32, torch.float64)
    )
    for free, remedy in {
        2**20: "use dataset.train_size= for fewer images, or a machine",
        (single + double) // 2: "use precision=fp32, which fits, or a machine",
    }.items():
        limit_memory(free)
        outcome = cli(*KERNEL, "precision=fp64")
        assert outcome.code == 1 and remedy in outcome.err
        assert f"in fp64 needs {double / 2**30:.1f} GiB of memory" in outcome.err
        assert list(tmp_path.iterdir()) == []
    assert cli(*KERNEL, "precision=fp32").code == 0


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
