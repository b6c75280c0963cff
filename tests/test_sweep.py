"""Runs and sweeps through the command line: folders, skipping, failures, exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from randlabels import fit, launchers, metrics
from randlabels.launchers.grid import expand
from randlabels.rundir import RunDir, read_plan

from .conftest import TINY, Cli, numbers, only_run

BASIC = "hydra/launcher=basic"
"""In this process, so that a test may reach in; the default launcher has tests of its own."""


# Grids


def test_lists_of_the_command_line_multiply() -> None:
    assert expand(["a=1,2", "b=x", "model=wrn,mlp"], []) == [
        ["a=1", "b=x", "model=wrn"],
        ["a=1", "b=x", "model=mlp"],
        ["a=2", "b=x", "model=wrn"],
        ["a=2", "b=x", "model=mlp"],
    ]


def test_grids_need_not_form_a_product_and_the_command_line_wins() -> None:
    grids = [{"model": "wrn", "corrupt": "0.0,1.0"}, {"model": "mlp", "corrupt": 1.0}]
    assert expand(["epochs=2"], grids) == [
        ["model=wrn", "corrupt=0.0", "epochs=2"],
        ["model=wrn", "corrupt=1.0", "epochs=2"],
        ["model=mlp", "corrupt=1.0", "epochs=2"],
    ]
    assert expand(["corrupt=0.5"], grids) == [
        ["model=wrn", "corrupt=0.5"],
        ["model=mlp", "corrupt=0.5"],
    ]


def test_ranges_and_bracketed_lists_keep_hydras_meaning() -> None:
    assert expand(["seed=range(0,3)"], []) == [["seed=0"], ["seed=1"], ["seed=2"]]
    assert expand(["model.hidden=[8],[8,8]"], []) == [["model.hidden=[8]"], ["model.hidden=[8,8]"]]
    assert expand([], [{"model.hidden": "[8,8]"}]) == [["model.hidden=[8,8]"]]


def test_another_option_on_the_command_line_drops_the_grids_keys_of_its_group() -> None:
    grids = [{"model": "wrn", "model.depth": 10, "corrupt": "0.0,1.0"}]
    assert expand(["model=mlp"], grids) == [
        ["corrupt=0.0", "model=mlp"],
        ["corrupt=1.0", "model=mlp"],
    ]


def test_an_empty_list_and_several_committed_sweeps_are_refused(cli: Cli) -> None:
    assert cli("-m", *TINY, "seed=range(0,0)").err.endswith("one of its lists is empty\n")
    outcome = cli("-m", "sweep=demo,seed/readme")
    assert (
        outcome.err == "Error: sweep=demo,seed/readme names several sweeps; launch one at a time\n"
    )


def test_a_grid_cannot_vary_the_launcher() -> None:
    with pytest.raises(ValueError, match="hydra/launcher, which one launch cannot vary"):
        expand([], [{"hydra/launcher": "basic,joblib"}])
    with pytest.raises(ValueError, match="is no list of values"):
        expand(["seed=interval(0,1)"], [])


# A single run


def test_single_run_leaves_the_contracts_folder_and_console_lines(cli: Cli, tmp_path: Path) -> None:
    done = cli(*TINY, "corrupt=0.5")
    assert done.code == 0
    run = RunDir(only_run(tmp_path))
    assert re.fullmatch(r"mlp-digits-uniform-p0.5-s0-[0-9a-f]{8}", run.run_id)
    assert run.path.parent == tmp_path / "runs" / "default"
    names = "checkpoint.pt config.yaml corruption.json done.json environment.json .lock"
    names += " metrics.jsonl run.log"
    assert {p.name for p in run.path.iterdir()} == set(names.split())
    lines = done.out.splitlines()
    assert lines[0] == "Number of parameters: 592"
    pattern = r"\d{3}: Acc-tr: [ \d]{3}\.\d\d, Acc-val: [ \d]{3}\.\d\d, L-tr: \d\.\d{4}, "
    pattern += r"L-val: \d\.\d{4}, Acc-noisy: [ \d]{3}\.\d\d"
    assert all(re.fullmatch(pattern, line) for line in lines[1:3])
    assert run.log.read_text().splitlines() == lines[:3]

    assert yaml.safe_load(run.config.read_text())["corrupt"] == 0.5
    records, torn = metrics.read(run.metrics)
    assert (len(records), torn) == (2, False)
    result = run.result()
    assert result is not None
    assert (result["state"], result["epochs"], result["parameters"]) == ("done", 2, 592)
    assert result["final"]["train_acc"] == records[1]["train_acc"]
    assert result["best"]["test_loss"] == min(r["test_loss"] for r in records)  # type: ignore
    environment = json.loads(run.environment.read_text())
    assert {"versions", "git", "device", "host", "argv", "data_sha256"} <= set(environment)
    assert environment["threads"] == len(os.sched_getaffinity(0))


def test_finished_run_is_found_not_repeated_and_force_sets_it_aside(
    cli: Cli, tmp_path: Path
) -> None:
    cli(*TINY)
    folder = only_run(tmp_path)
    before = (folder / "metrics.jsonl").read_bytes()
    again = cli(*TINY, "fit_threshold=0.5")
    assert again.code == 0
    assert re.fullmatch(
        r"Already done after 2 epochs: train acc \d+\.\d\d%, test acc \d+\.\d\d%\.\n", again.out
    )
    assert (folder / "metrics.jsonl").read_bytes() == before

    assert cli(*TINY, "force=true").code == 0
    assert only_run(tmp_path) == folder
    old = tmp_path / "runs" / "default" / ".replaced" / f"{folder.name}.1"
    assert (old / "metrics.jsonl").read_bytes() == before
    assert numbers(folder) == numbers(old)


def test_plan_lists_and_starts_nothing(cli: Cli, tmp_path: Path) -> None:
    single = cli(*TINY, "plan=true")
    assert single.code == 0 and "planned" in single.out and "128" in single.out
    sweep = cli("-m", *TINY, "corrupt=0.0,1.0", "plan=true")
    assert sweep.code == 0 and "2 runs in runs/default: 2 planned" in sweep.out
    assert not (tmp_path / "runs").exists()


def test_diverged_run_is_a_result(cli: Cli, tmp_path: Path) -> None:
    diverging = [*TINY, "optimizer.lr=1e8", "epochs=9"]
    first = cli(*diverging)
    assert first.code == 0 and "Diverged: a loss stopped being finite in epoch" in first.out
    run = RunDir(only_run(tmp_path))
    result = run.result()
    assert result is not None and result["state"] == "diverged"
    assert result["diverged_at"] == result["epochs"] == len(metrics.read(run.metrics)[0])
    assert cli(*diverging).out.startswith("Already diverged after ")


def test_marker_of_another_config_is_not_believed(cli: Cli, tmp_path: Path) -> None:
    cli(*TINY)
    run = RunDir(only_run(tmp_path))
    whole = numbers(run.path)
    run.done.write_text('{"config_hash": "00000000", "state": "done"}')
    run.checkpoint.unlink()
    assert run.state() == "interrupted"
    assert cli(*TINY).code == 0
    assert run.state() == "done" and numbers(run.path) == whole


def test_killed_run_resumes_and_ends_with_the_undisturbed_numbers(cli: Cli, tmp_path: Path) -> None:
    arguments = [*TINY, "model.hidden=[64]", "epochs=400", "checkpoint_every=0", "threads=1"]
    assert cli(*arguments, "out=undisturbed").code == 0
    (undisturbed,) = (tmp_path / "undisturbed").glob("*/*/metrics.jsonl")
    command = [sys.executable, "-m", "randlabels.run", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if sum(
                len(p.read_text().splitlines()) for p in tmp_path.glob("runs/*/*/metrics.jsonl")
            ):
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    run = RunDir(only_run(tmp_path))
    assert run.state() == "interrupted"
    resumed = cli(*arguments)
    assert resumed.code == 0 and "Resuming after epoch" in resumed.out
    assert numbers(run.path) == numbers(undisturbed.parent)
    assert [r["epoch"] for r in metrics.read(run.metrics)[0]] == list(range(400))


def test_damaged_checkpoint_is_reported_and_the_run_starts_over(cli: Cli, tmp_path: Path) -> None:
    cli(*TINY)
    run = RunDir(only_run(tmp_path))
    whole = numbers(run.path)
    run.done.unlink()
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-500])
    again = cli(*TINY)
    assert again.code == 0 and re.search("is damaged: .*; starting from epoch 0", again.out)
    assert numbers(run.path) == whole


def test_two_processes_on_one_run_one_works(cli: Cli, tmp_path: Path) -> None:
    cli(*TINY)
    run = RunDir(only_run(tmp_path))
    run.done.unlink()
    hold = "import sys, time; from pathlib import Path; from randlabels.rundir import RunDir\n"
    hold += (
        f"with RunDir(Path({str(run.path)!r})).lock(): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert run.state() == "running"
        other = cli(*TINY)
        began = json.loads(run.environment.read_text())
        whose = f"executed by pid {began['pid']} on host {began['host']}"
        assert other.code == 0 and f"This run is being {whose}." in other.out
        sweep = cli("-m", *TINY, BASIC)
        assert sweep.code == 0 and "1 run in runs/default: 1 running" in sweep.out
        forced = cli(*TINY, "force=true")
        assert forced.code == 1 and f"is being {whose}; stop that first" in forced.err
        assert run.path.exists()
        holder.kill()
    assert run.state() == "interrupted"
    assert cli(*TINY).code == 0


def test_tab_completion_knows_options_and_keys() -> None:
    def complete(line: str) -> list[str]:
        command = [str(Path(sys.executable).with_name("randlabels")), "-sc", "query=bash"]
        environment = {**os.environ, "COMP_LINE": f"randlabels {line}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("model=") == ["model=linear", "model=mlp", "model=wrn"]
    assert complete("dataset.tr") == ["dataset.train_size="]


# Sweeps


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


@pytest.mark.parametrize("workers", [1, 2])
def test_numbers_do_not_depend_on_the_launcher_or_the_number_of_workers(
    cli: Cli, tmp_path: Path, workers: int
) -> None:
    sweep = ["-m", *TINY, "corrupt=0.0,0.5,1.0", "threads=1"]
    assert cli(*sweep, BASIC, "out=basic").code == 0
    assert cli(*sweep, f"hydra.launcher.n_jobs={workers}", "out=joblib").code == 0
    assert cli(*sweep[1:-2], "corrupt=0.5", "threads=1", "out=alone").code == 0
    for folder in (tmp_path / "basic" / "default").glob("mlp*"):
        assert numbers(tmp_path / "joblib" / "default" / folder.name) == numbers(folder)
    (alone,) = (tmp_path / "alone" / "default").glob("mlp*")
    assert numbers(tmp_path / "basic" / "default" / alone.name) == numbers(alone)


def test_one_failing_run_stops_no_other_and_a_rerun_mends_it(
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


def test_killed_worker_is_reported_and_a_rerun_finishes(cli: Cli, tmp_path: Path) -> None:
    """joblib gives up when a worker dies; the next call resumes what was interrupted."""
    sweep = ["-m", *TINY, "epochs=1500", "checkpoint_every=0.05", "corrupt=0.0,1.0"]
    command = [sys.executable, "-m", "randlabels.run", *sweep]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        pid = wait_for_a_worker(tmp_path)
        os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "The launcher gave up" in err
    assert "2 runs in runs/default:" in out and "interrupted" in out
    again = cli(*sweep, BASIC)
    assert again.code == 0 and "Resuming after epoch" in again.out
    assert "2 runs in runs/default: 2 done" in again.out
    for metrics_file in tmp_path.glob("runs/*/*/metrics.jsonl"):
        assert [r["epoch"] for r in metrics.read(metrics_file)[0]] == list(range(1500))


def test_exception_before_a_run_has_a_folder_is_reported(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: object) -> None:
        raise KeyError("a bug of one's own")

    monkeypatch.setattr("randlabels.execute.assemble", broken)
    outcome = cli("-m", *TINY, "corrupt=0.0,1.0", BASIC)
    assert outcome.code == 1 and "2 planned" in outcome.out
    assert outcome.out.count('planned, KeyError: "a bug of one\'s own"\n') == 2


def test_single_run_in_a_terminal_shows_a_bar_and_its_failure(tmp_path: Path) -> None:
    """On a pseudo-terminal, as a person sees it."""
    command = [sys.executable, "-m", "randlabels.run", *TINY]
    leader, follower = pty.openpty()
    with subprocess.Popen(command, cwd=tmp_path, stdout=follower, stderr=follower):
        os.close(follower)
        shown = read_all(leader)
    assert "100%" in shown and "001: Acc-tr:" in shown
    assert "Number of parameters" not in shown  # it stands in run.log
    run = RunDir(only_run(tmp_path))
    run.done.unlink()
    run.checkpoint.write_bytes(b"broken")
    leader, follower = pty.openpty()
    with subprocess.Popen(command, cwd=tmp_path, stdout=follower, stderr=follower):
        os.close(follower)
        assert "is damaged" in read_all(leader)


def read_all(terminal: int) -> str:
    """What is written to a pseudo-terminal until the last writer closes it."""
    shown = b""
    with open(terminal, "rb", buffering=0) as file:
        try:
            while part := file.read(4096):
                shown += part
        except OSError:  # how Linux reports the end
            pass
    return shown.decode()


def wait_for_a_worker(root: Path) -> int:
    """The process id of a worker that has a checkpoint."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for checkpoint in root.glob("runs/*/*/checkpoint.pt"):
            return int(json.loads((checkpoint.parent / "environment.json").read_text())["pid"])
        time.sleep(0.01)
    raise AssertionError("no worker wrote a checkpoint")


def test_sweep_over_names_keeps_a_plan_in_each_folder(cli: Cli, tmp_path: Path) -> None:
    assert cli("-m", *TINY, "name=a,b", BASIC).code == 0
    assert [len(read_plan(tmp_path / "runs" / name)) for name in "ab"] == [1, 1]


def test_committed_sweep_sets_multirun_and_its_folder(cli: Cli, tmp_path: Path) -> None:
    shown = cli("sweep=seed/readme", "plan=true", "dataset=digits")
    assert "3 runs in runs/seed-readme: 3 planned" in shown.out


def test_sweep_file_chooses_its_launcher(cli: Cli, tmp_path: Path) -> None:
    """Hydra lets the primary config win over a sweep file unless its own default is nested."""
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


def test_gpus_are_dealt_out_round_robin(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from randlabels.config import parse
    from randlabels.environment import resolve

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    devices = [resolve(parse({}), job).device for job in range(5)]
    assert devices == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]
    assert resolve(parse({"device": "cuda:2"}), 0).device == "cuda:2"
    with pytest.raises(ValueError, match="use cuda:0 to cuda:2"):
        resolve(parse({"device": "cuda:3"}), 0)


def test_plugin_module_is_the_launchers_package() -> None:
    launchers.register()
    assert sys.modules[launchers.HYDRA_NAME] is launchers
