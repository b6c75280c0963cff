"""A launch: the checks before its first run, its plan, its closing table, processes per GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import joblib
import pytest

from randlabels import checks
from randlabels.config import parse
from randlabels.console import print_table
from randlabels.launchers import launch
from randlabels.model.kernel import Kernel
from randlabels.store.rundir import RunDir

from .conftest import BASIC, TINY, Cli

KERNEL = ["-m", "dataset=digits", "model=kernel"]


def printed_rows(shown: str) -> list[dict[str, str]]:
    """The rows of a printed table by heading."""
    lines = re.findall(r"^[┃│].*", shown, re.M)
    headings, *rows = (re.split(r" *[┃│] *", line)[1:-1] for line in lines)
    assert len(set(headings)) == len(headings)
    return [dict(zip(headings, row, strict=True)) for row in rows]


def test_plan_counts_the_remaining_epochs(cli: Cli, tmp_path: Path) -> None:
    """One of four epochs of 64 images is done; with `force=true`, none is."""
    sweep = ["-m", *TINY, "epochs=4", "plan=true"]
    (planned,) = printed_rows(cli(*sweep).out)
    run = RunDir(tmp_path / "runs" / "default" / planned["run"])
    run.path.mkdir(parents=True)
    run.config.touch()
    run.metrics.write_text("{}\n{torn")
    for keys, images in (([], "192"), (["force=true"], "256")):
        shown = cli(*sweep, *keys).out
        assert f"In all {images} training images to go" in shown
        assert [(row["state"], row["images to go"]) for row in printed_rows(shown)] == [
            ("interrupted", images)
        ]


def test_closing_table_shows_what_an_interrupted_run_has_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    config = parse({"dataset": {"name": "digits"}, "model": {"name": "linear"}})
    config.run.path.mkdir(parents=True)
    config.run.config.touch()
    config.run.metrics.write_text('{"epoch": 0, "train_acc": 0.5, "test_acc": 0.25}\n{torn')
    assert launch.close([config], {}, "SIGTERM") == 1
    (row,) = printed_rows(capsys.readouterr().out)
    assert row["state"] == "interrupted"
    assert (row["epochs"], row["train acc"], row["test acc"]) == ("1", "50.00%", "25.00%")


def test_labels_and_models_that_runs_share_are_checked_once(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels by split, data set, corruption and `corrupt`; models by precision, data and model."""
    calls: dict[str, list[Any]] = {"label_checksums": [], "check_model": []}
    for name, seen in calls.items():
        original = getattr(checks, name)

        def record_and_check(config, *arguments, original=original, seen=seen, **options):
            seen.append((config.dataset.name, config.corrupt, config.model.name, config.precision))
            return original(config, *arguments, **options)

        monkeypatch.setattr(checks, name, record_and_check)
    trained = ["-m", *TINY[:1], *TINY[3:], "model=mlp,linear", "precision=fp32,bf16"]
    outcome = cli(*trained, "seed=0,1", "corrupt=0.0,0.5,1.0", "plan=true")
    assert "24 runs" in outcome.out
    assert [level for _, level, _, _ in calls["label_checksums"]] == [0.0, 0.5, 1.0]
    models = [(name, precision) for _, _, name, precision in calls["check_model"]]
    assert sorted(models) == [
        (name, precision) for name in ("linear", "mlp") for precision in ("bf16", "fp32")
    ]


@pytest.mark.slow
def test_sweep_is_refused_for_one_precision_before_any_run_starts(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit_memory: Callable[[int], None],
) -> None:
    """The memory is enough for the system in fp32, which comes first, but not in fp64."""
    check, needed = Kernel.check, []

    def record_and_check(*arguments: Any, **options: Any) -> int:
        needed.append(check(*arguments, **options))
        return needed[-1]

    monkeypatch.setattr(Kernel, "check", record_and_check)
    assert cli(*KERNEL, "precision=fp32", "plan=true").code == 0
    limit_memory(needed[0])
    refused = cli(*KERNEL, "precision=fp32,fp64")
    assert refused.code == 1
    assert refused.err.startswith("Error: model=kernel on 1,442 images in fp64 needs ")
    assert "use precision=fp32, which fits" in refused.err
    assert list(tmp_path.iterdir()) == []
    assert cli(*KERNEL, "precision=fp32").code == 0


def test_plan_counts_an_exact_fit_once(cli: Cli) -> None:
    """1,442 images in an exact fit, and 64 images in two epochs of training."""
    digits = "dataset: digits, model"
    small = f"{digits}: mlp, epochs: 2, dataset.train_size: 64"
    shown = cli("-m", f"hydra.sweeper.runs=[{{{digits}: kernel}}, {{{small}}}]", "plan=true").out
    assert "In all 1,570 training images to go" in shown
    counts = [(row["epochs"], row["images"], row["images to go"]) for row in printed_rows(shown)]
    assert counts == [("1", "1,442", "1,442"), ("2", "64", "128")]


def test_plan_shows_each_key_once_with_values_as_on_the_command_line(cli: Cli) -> None:
    sweep = ["dataset=digits", "model=mlp", "epochs=1,2", "dataset.train_size=64,null"]
    rows = printed_rows(cli("-m", *sweep, "plan=true").out)
    shown = ["run", "state", "epochs", "dataset.train_size", "images", "images to go"]
    assert list(rows[0]) == shown
    assert [list(row.values())[2:] for row in rows] == [
        ["1", "64", "64", "64"],
        ["1", "null", "1,442", "1,442"],
        ["2", "64", "64", "128"],
        ["2", "null", "1,442", "2,884"],
    ]


@pytest.mark.parametrize("width", [50, 80, 300])
def test_table_in_a_narrow_terminal_is_folded_not_cut(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ["run", "state", "optimizer.weight_decay", "images to go"]
    row = ["inception_no_bn-digits-uniform-p0-s0-5425906c", "planned", "0.0005", "40,000"]
    print_table("a title", columns, [row])
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= width
    for mark, wanted in (("┃", columns), ("│", row)):
        parts = [line.split(mark)[1:-1] for line in lines if line.startswith(mark)]
        found = ["".join(texts).replace(" ", "") for texts in zip(*parts, strict=True)]
        assert found == [text.replace(" ", "") for text in wanted]


def test_closing_table_shows_epochs_once_even_if_they_differ(cli: Cli) -> None:
    rows = printed_rows(cli("-m", *TINY, "epochs=1,2", BASIC).out)
    assert [(row["state"], row["epochs"]) for row in rows] == [("done", "1"), ("done", "2")]


@pytest.mark.slow
def test_joblib_starts_two_processes_per_gpu_and_says_so(
    cli: Cli, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs and joblib are stand-ins; the latter records its arguments."""
    jobs: list[int] = []

    def record(n_jobs: int, backend: str) -> Callable[[Iterable], list]:
        assert backend == "loky"
        jobs.append(n_jobs)
        return lambda calls: []

    monkeypatch.setattr(joblib, "Parallel", record)
    monkeypatch.setattr(joblib, "effective_n_jobs", {-1: 5, 3: 3}.get)
    line = "At most 4 processes, 2 per GPU; hydra.launcher.n_jobs=N sets another number\n"
    monkeypatch.setattr(launch, "check", lambda configs, here: None)  # this machine may lack a GPU
    sweep = ["-m", *TINY, "seed=range(0,6)"]
    assert line in cli(*sweep).out
    for key in ("device=cpu", "hydra.launcher.n_jobs=3"):
        assert "per GPU" not in cli(*sweep, key).out
    assert jobs == [4, 5, 3]


GROWING = """
from dataclasses import dataclass
from typing import ClassVar
import time, torch
from randlabels.model import Model

KEPT = []

@dataclass
class Growing(Model):
    name: ClassVar[str] = "growing"
    lr: float | None = 0.1

    def build(self, image, classes, rng):
        KEPT.append(torch.ones(100_000_000))
        time.sleep(1.2)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))
"""
"""A model whose worker grows by 400 MB a run; joblib looks once a second."""


@pytest.mark.slow
def test_joblib_replaces_a_worker_that_has_grown_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "growing.py").write_text(GROWING)
    arguments = ["imports=[growing.py]", "model=growing", "dataset=digits", "epochs=1"]
    command = [sys.executable, "-m", "randlabels.run", "-m", *arguments, "seed=range(0,6)"]
    done = subprocess.run(
        [*command, "hydra.launcher.n_jobs=2"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "6 done" in done.stdout
    assert "A worker stopped" not in done.stderr
    files = tmp_path.glob("runs/*/*/environment.json")
    assert len({json.loads(file.read_text())["pid"] for file in files}) > 2


@pytest.mark.slow
def test_joblibs_idle_workers_end_with_the_last_run(cli: Cli, tmp_path: Path) -> None:
    """joblib would keep them, and the process would wait for them at its end."""
    assert cli("-m", *TINY, "seed=0,1", "hydra.launcher.n_jobs=2").code == 0
    files = tmp_path.glob("runs/*/*/environment.json")
    workers = {json.loads(file.read_text())["pid"] for file in files} - {os.getpid()}
    assert workers and not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs=0 must be at least 1, or -1 for all"),
        ("hydra/launcher=mine", "hydra/launcher must be joblib, basic, packed or slurm, not other"),
    ],
)
def test_launcher_that_cannot_start_runs_is_refused(
    override: str, sentence: str, cli: Cli, tmp_path: Path
) -> None:
    own = tmp_path / "conf" / "hydra" / "launcher" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: other.Launcher\n")
    outcome = cli("--config-dir", str(tmp_path / "conf"), "-m", *TINY, override)
    assert outcome.code == 1 and outcome.err.startswith(f"Error: {sentence}")
    assert not (tmp_path / "runs").exists()


def test_sweep_calls_hydras_callbacks_at_its_start_and_end(cli: Cli, tmp_path: Path) -> None:
    callback = "+hydra.callbacks.record._target_=tests.callbacks.Record"
    assert cli("-m", *TINY, BASIC, callback).code == 0
    assert (tmp_path / "calls").read_text().split() == ["on_multirun_start", "on_multirun_end"]


def test_single_run_calls_hydras_callbacks_at_its_start_and_end(cli: Cli, tmp_path: Path) -> None:
    callback = "+hydra.callbacks.record._target_=tests.callbacks.Record"
    assert cli(*TINY, callback).code == 0
    assert (tmp_path / "calls").read_text().split() == [
        "on_run_start",
        "on_job_start",
        "on_job_end",
        "on_run_end",
    ]
