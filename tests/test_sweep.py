"""Sweeps through the command line: launchers, failures, killed workers, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from randlabels import fit
from randlabels.store import metrics
from randlabels.store.rundir import RunDir, read_plan

from .conftest import BASIC, TINY, Cli, started, untimed_lines, wait_until


def test_sweep_runs_every_cell_once_and_reports(cli: Cli, tmp_path: Path) -> None:
    sweep = ["-m", *TINY[:1], *TINY[3:], "corrupt=0.0,1.0", "model=mlp,linear"]
    first = cli(*sweep)
    assert first.code == 0
    assert "4 runs, 4 of them to do" in first.out
    assert "4 runs in runs/default: 4 done" in first.out
    folders = sorted(p.parent for p in tmp_path.glob("runs/default/*/done.json"))
    assert len(folders) == 4
    plan = read_plan(tmp_path / "runs" / "default")
    assert sorted(plan) == [p.name for p in folders]
    assert plan[folders[0].name]["overrides"][0] == "dataset=digits"
    for folder in folders:
        environment = json.loads((folder / "environment.json").read_text())
        assert environment["threads"] == 1

    again = cli(*sweep, "corrupt=0.0,0.5,1.0")
    assert again.code == 0 and "6 runs, 2 of them to do" in again.out
    assert len(read_plan(tmp_path / "runs" / "default")) == 6
    third = cli(*sweep)
    assert third.code == 0 and "4 runs, 0 of them to do" in third.out


def test_single_run_of_joblib_is_executed_in_a_worker(cli: Cli, tmp_path: Path) -> None:
    assert cli("-m", *TINY, "hydra.launcher.n_jobs=2").code == 0
    (file,) = tmp_path.glob("runs/default/*/environment.json")
    assert json.loads(file.read_text())["pid"] != os.getpid()


@pytest.mark.slow
def test_numbers_do_not_depend_on_the_launcher_or_the_number_of_workers(
    cli: Cli, tmp_path: Path
) -> None:
    sweep = ["-m", *TINY, "corrupt=0.0,0.5,1.0", "threads=1"]
    assert cli(*sweep, BASIC, "out=basic").code == 0
    assert cli(*sweep, "hydra.launcher.n_jobs=1", "out=1").code == 0
    assert cli(*sweep, "hydra.launcher.n_jobs=2", "out=2").code == 0
    assert cli(*sweep[1:-2], "corrupt=0.5", "threads=1", "out=alone").code == 0
    folders = list((tmp_path / "basic" / "default").glob("mlp*"))
    assert len(folders) == 3
    for folder in folders:
        for workers in "12":
            assert untimed_lines(tmp_path / workers / "default" / folder.name) == untimed_lines(
                folder
            )
    (alone,) = (tmp_path / "alone" / "default").glob("mlp*")
    assert untimed_lines(tmp_path / "basic" / "default" / alone.name) == untimed_lines(alone)


def test_failed_run_does_not_stop_the_others_and_the_next_launch_repeats_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fit.sgd

    def failing(experiment, *arguments, **options):
        if experiment.config.corrupt == 0.5:
            raise MemoryError("no room for this one")
        return real(experiment, *arguments, **options)

    sweep = ["-m", *TINY, "corrupt=0.0,0.5,1.0", BASIC]
    with monkeypatch.context() as patch:
        patch.setattr(fit, "sgd", failing)
        first = cli(*sweep)
    assert first.code == 1
    assert "3 runs in runs/default: 2 done, 1 failed" in first.out
    (failed,) = (p.parent for p in tmp_path.glob("runs/*/*/error.json"))
    report, hint = first.out.splitlines()[-2:]
    assert hint == "Tables: python -m analysis.collect runs/default"
    assert report == (
        f"{failed.name}: failed, MemoryError: no room for this one; "
        f"see {failed.relative_to(tmp_path) / 'run.log'}"
    )
    assert "Traceback" in json.loads((failed / "error.json").read_text())["traceback"]
    assert "MemoryError: no room for this one" in (failed / "run.log").read_text()
    second = cli(*sweep)
    assert second.code == 0 and "3 runs, 1 of them to do" in second.out
    assert not (failed / "error.json").exists()


@pytest.mark.slow
def test_killed_worker_is_reported_and_the_next_launch_resumes_its_run(
    cli: Cli, tmp_path: Path
) -> None:
    """joblib stops all runs when a worker dies."""
    sweep = ["-m", *TINY, "epochs=1500", "checkpoint_every=0.05", "corrupt=0.0,1.0"]
    sweep_of_two = [*sweep, "hydra.launcher.n_jobs=2"]  # also on a single core
    with started(tmp_path, *sweep_of_two, stderr=subprocess.PIPE) as process:
        wait_until(lambda: list(tmp_path.glob("runs/*/*/checkpoint.pt")))
        began = next(tmp_path.glob("runs/*/*/checkpoint.pt")).with_name("environment.json")
        os.kill(json.loads(began.read_text())["pid"], signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "The launcher gave up" in err
    assert "2 runs in runs/default:" in out and "interrupted" in out
    again = cli(*sweep, BASIC, "verbose=true")
    assert again.code == 0 and "Resuming after epoch" in again.out
    assert "2 runs in runs/default: 2 done" in again.out
    for metrics_file in tmp_path.glob("runs/*/*/metrics.jsonl"):
        assert [r["epoch"] for r in metrics.read(metrics_file)[0]] == list(range(1500))


@pytest.fixture
def fail_before_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Return a function after which each run raises an error before it has a folder."""

    def fail(error: Exception) -> None:
        def broken(config: object) -> None:
            raise error

        monkeypatch.setattr("randlabels.execute.assemble", broken)

    return fail


def test_exception_before_a_run_has_a_folder_is_reported(
    cli: Cli, tmp_path: Path, fail_before_runs: Callable[[Exception], None]
) -> None:
    fail_before_runs(KeyError("a programming error"))
    outcome = cli("-m", *TINY, "corrupt=0.0,1.0", BASIC)
    assert outcome.code == 1 and "2 planned" in outcome.out
    assert outcome.out.count("planned, KeyError: 'a programming error'\n") == 2


@pytest.mark.parametrize(("raised", "shown"), [(KeyError, True), (ValueError, False)])
def test_traceback_of_a_programming_error_is_shown_and_that_of_a_refusal_is_not(
    raised: type[Exception], shown: bool, cli: Cli, fail_before_runs: Callable[[Exception], None]
) -> None:
    fail_before_runs(raised("before the run has a folder"))
    outcome = cli("-m", *TINY, BASIC)
    assert ("in broken\n" in outcome.err) == shown
    assert f"planned, {raised.__name__}: " in outcome.out


def test_sweep_over_names_writes_a_plan_into_each_folder(cli: Cli, tmp_path: Path) -> None:
    assert cli("-m", *TINY, "name=a,b", BASIC).code == 0
    assert [len(read_plan(tmp_path / "runs" / name)) for name in "ab"] == [1, 1]


def test_table_shows_the_keys_that_differ_among_the_runs(cli: Cli) -> None:
    shown = cli("-m", *TINY, "optimizer.lr=0.1,0.2", "model.hidden=[8]", "plan=true").out
    header = next(line for line in shown.splitlines() if "optimizer.lr" in line)
    assert "model.hidden" not in header
    assert re.findall(r"planned\s+│\s+(0\.\d)", shown) == ["0.1", "0.2"]


def test_multirun_flag_may_stand_anywhere(cli: Cli) -> None:
    assert "2 runs" in cli(*TINY, "plan=true", "-m", "seed=0,1").out


def test_closed_pipe_does_not_stop_a_run(tmp_path: Path) -> None:
    command = " ".join([sys.executable, "-m", "randlabels.run", *TINY, "epochs=300"])
    shell = f"{command} 2>errors | head -2"
    subprocess.run(["bash", "-c", shell], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    (run,) = (RunDir(p.parent) for p in tmp_path.glob("runs/*/*/config.yaml"))
    assert run.state() == "done" and "Traceback" not in (tmp_path / "errors").read_text()


def test_committed_sweep_sets_multirun_and_its_folder(cli: Cli, tmp_path: Path) -> None:
    shown = cli("sweep=seed/readme", "plan=true", "dataset=digits")
    assert "3 runs in runs/seed-readme: 3 planned" in shown.out


def test_sweep_file_chooses_its_launcher(cli: Cli, tmp_path: Path) -> None:
    """Hydra's primary config would override a sweep file if its default were not nested."""
    folder = tmp_path / "mine" / "sweep"
    folder.mkdir(parents=True)
    (folder / "here.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /hydra/launcher: basic\n"
        "hydra: {mode: MULTIRUN, sweeper: {runs: [{corrupt: '0.0,1.0'}]}}\n"
    )
    assert cli("--config-dir", str(tmp_path / "mine"), "sweep=here", *TINY).code == 0
    folders = list((tmp_path / "runs" / "here").glob("mlp*/environment.json"))
    pids = {json.loads(file.read_text())["pid"] for file in folders}
    assert pids == {os.getpid()}


def test_closing_table_lists_a_run_whose_records_cannot_be_read(cli: Cli, tmp_path: Path) -> None:
    sweep = ["-m", *TINY, BASIC, "corrupt=0.0,1.0"]
    broken = re.findall(r"mlp-digits-uniform-p0-s0-[0-9a-f]{8}", cli(*sweep, "plan=true").out)[0]
    (tmp_path / "runs" / "default" / broken / "metrics.jsonl").mkdir(parents=True)
    outcome = cli(*sweep)
    assert outcome.code == 1 and "1 done, 1 failed" in outcome.out
    assert f"{broken}: failed, IsADirectoryError" in outcome.out
