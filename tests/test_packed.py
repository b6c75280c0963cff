"""The launcher `packed`, with real processes and signals: same numbers, no orphans."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing import Pipe, forkserver, get_context
from pathlib import Path
from subprocess import DEVNULL

import pytest
import torch

from randlabels import checks
from randlabels.config import parse
from randlabels.launchers import packed, worker
from randlabels.launchers.packed import PackedLauncher, by_data
from randlabels.machine import resources
from randlabels.store import metrics
from randlabels.store.rundir import RunDir

from .conftest import BASIC, TINY, Cli, numbers, started, wait_until

PACKED = "hydra/launcher=packed"
LONG = ["-m", *TINY, "epochs=100000", "checkpoint_every=0.05", PACKED]
"""Runs that do not end by themselves."""

ONE_OR_TWO = [[], ["hydra.launcher.workers=1", "hydra.launcher.concurrency=2"]]
"""Keys with which a worker executes one run, or two of them at a time."""


def facts(root: Path, key: str) -> list:
    """One entry of each run's environment.json."""
    found = root.glob("runs/*/*/environment.json")
    return [json.loads(file.read_text())[key] for file in found]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_numbers_are_those_of_runs_one_after_the_other(cli: Cli, tmp_path: Path) -> None:
    runs = "{model: wrn, model.depth: 10}, {model: mlp, model.hidden: [8], corrupt: '0.0,1.0'}"
    cells = ["-m", *TINY[:1], *TINY[3:], f"hydra.sweeper.runs=[{runs}]", "threads=1"]
    assert cli(*cells, PACKED, "hydra.launcher.workers=2", "out=packed").code == 0
    assert cli(*cells, BASIC, "out=basic").code == 0
    folders = [file.parent for file in (tmp_path / "basic" / "default").glob("*/metrics.jsonl")]
    assert len(folders) == 3
    for folder in folders:
        assert numbers(tmp_path / "packed" / "default" / folder.name) == numbers(folder)


def test_a_worker_stays_for_several_runs_and_finished_ones_start_none(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ["-m", *TINY, "seed=range(0,6)", PACKED, "hydra.launcher.workers=1"]
    done = cli(*sweep)
    assert done.code == 0 and "6 runs in runs/default: 6 done" in done.out
    pids = facts(tmp_path, "pid")
    assert len(pids) == 6 and len(set(pids)) == 1 and os.getpid() not in pids
    assert facts(tmp_path, "threads") == [1] * 6
    for file in tmp_path.glob("runs/*/*/metrics.jsonl"):
        assert metrics.read(file)[0][-1]["epoch"] == 1
    monkeypatch.setattr(packed.Worker, "start", None)
    again = cli(*sweep)
    assert again.code == 0 and "6 runs, 0 of them to do" in again.out


def test_killed_worker_loses_its_run_only_and_the_next_call_resumes_it(
    cli: Cli, tmp_path: Path
) -> None:
    """The only worker is killed in the first run, and another one takes the rest."""
    runs = "hydra.sweeper.runs=[{seed: 0, epochs: 800}, {seed: 'range(1,4)', epochs: 20}]"
    sweep = ["-m", *TINY[:4], "checkpoint_every=0.02", runs, PACKED, "hydra.launcher.workers=1"]
    with started(tmp_path, *sweep) as process:
        wait_until(lambda: list(tmp_path.glob("runs/*/*/checkpoint.pt")))
        (pid,) = facts(tmp_path, "pid")
        os.kill(pid, signal.SIGKILL)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 1, out
    assert "4 runs in runs/default: 3 done, 1 interrupted" in out
    assert ": interrupted, its worker died (killed by SIGKILL); see " in out
    assert len(set(facts(tmp_path, "pid"))) == 2
    again = cli(*sweep)
    assert again.code == 0 and "Resuming after epoch" in again.out
    for file in tmp_path.glob("runs/*/*/metrics.jsonl"):
        epochs = [record["epoch"] for record in metrics.read(file)[0]]
        assert epochs == list(range(len(epochs))) and len(epochs) in (20, 800)


@pytest.mark.parametrize("runs", ONE_OR_TWO)
def test_workers_die_with_a_killed_parent(runs: list[str], tmp_path: Path) -> None:
    def states() -> set[str]:
        return {RunDir(file.parent).state() for file in tmp_path.glob("runs/*/*/config.yaml")}

    with started(tmp_path, *LONG, "seed=0,1", *runs, stdout=DEVNULL) as process:
        wait_until(lambda: len(list(tmp_path.glob("runs/*/*/checkpoint.pt"))) >= 1)
        pids = facts(tmp_path, "pid")
        process.kill()
        wait_until(lambda: not any(map(alive, pids)))
        wait_until(lambda: states() == {"interrupted"})  # a worker that had no pid to tell yet too


@pytest.mark.parametrize("concurrency", [1, 2])
def test_worker_that_cannot_read_a_run_dies_and_is_heard_of(concurrency: int) -> None:
    ours, theirs = Pipe()
    process = get_context("spawn").Process(target=worker.work, args=(theirs, 0, 1, concurrency, ""))
    process.start()
    theirs.close()
    ours.send_bytes(b"no run")
    process.join(60)
    assert process.exitcode == 1 and ours.poll(0)


@pytest.mark.parametrize("runs", ONE_OR_TWO)
def test_control_c_ends_the_workers_and_exits_with_130(runs: list[str], tmp_path: Path) -> None:
    with started(tmp_path, *LONG, "seed=0,1", *runs) as process:
        wait_until(lambda: list(tmp_path.glob("runs/*/*/checkpoint.pt")))
        pids = facts(tmp_path, "pid")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 130 and "Traceback" not in out
        assert not any(map(alive, pids))
    logs = [file.read_text() for file in tmp_path.glob("runs/*/*/run.log")]
    assert logs and all("Stopped by" in log for log in logs)  # none was killed


def test_workers_imports_go_on_while_the_runs_are_checked(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a plan, which starts nothing, has none."""
    seen: dict[str, bool] = {}
    check = checks.check

    def noted(configs: list, **options: bool) -> None:
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        seen[configs[0].name] = server is not None and alive(server)
        check(configs, **options)

    monkeypatch.setattr(checks, "check", noted)
    assert cli("-m", *TINY, PACKED, "name=a").code == 0
    assert cli("-m", *TINY, PACKED, "name=b", "plan=true").code == 0
    assert cli("-m", *TINY, BASIC, "name=c").code == 0
    assert seen == {"a": True, "b": False, "c": False}


def test_control_c_during_the_imports_shows_no_traceback(tmp_path: Path) -> None:
    many = "seed=range(0,300)"  # more than are done before the signal, on a slow machine too
    with started(tmp_path, "-m", *TINY, PACKED, many) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: len(children.read_text().split()) == 2)  # and the resource tracker
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in out and "Interrupted" in out


def test_run_that_is_refused_in_its_worker_is_listed(cli: Cli, tmp_path: Path) -> None:
    """Data that vanish between the check and the run."""
    launcher = PackedLauncher(workers=1)
    tree = {"dataset": {"name": "image_folder", "root": str(tmp_path / "gone")}}
    gone = parse({**tree, "out": str(tmp_path / "runs")})
    small = {"name": "digits", "train_size": 64}
    model = {"name": "mlp", "hidden": [8]}
    good = parse({"dataset": small, "model": model, "epochs": 1, "out": str(tmp_path / "runs")})
    errors = launcher.execute([gone, good])
    assert list(errors) == [gone.run.path] and "gone" in errors[gone.run.path]
    assert good.run.state() == "done"


def test_runs_of_one_data_set_follow_each_other() -> None:
    def run(name: str, seed: int) -> object:
        return parse({"dataset": {"name": name}, "seed": seed})

    mixed = [run("mnist", 0), run("digits", 1), run("mnist", 2), run("digits", 3)]
    assert [config.seed for config in by_data(mixed)] == [0, 2, 1, 3]


@pytest.mark.parametrize(("threads", "workers"), [("auto", 8), ("1", 8), ("3", 2), ("16", 1)])
def test_workers_fill_the_cores(
    threads: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "cpu_cores", lambda: list(range(8)))
    config = parse({"threads": threads, "device": "cpu"})
    assert PackedLauncher()._size([config]) == workers


def test_workers_have_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list = []
    monkeypatch.setattr(resources, "cpu_cores", lambda: [0, 2, 4, 6])
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, mine: pinned.append(mine))
    for slot, size in [(0, 4), (3, 4), (1, 2), (0, 3), (0, 5)]:
        worker._pin(slot, size)
    assert pinned == [[0], [6], [4, 6]]  # three and five workers do not divide four cores


def test_several_runs_share_a_gpu_and_none_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device, workers, runs in [("auto", 2, 4), ("cpu", len(resources.cpu_cores()), 1)]:
        configs = [parse({"device": device})]
        launcher = PackedLauncher()
        assert (launcher._size(configs), launcher._concurrency(configs)) == (workers, runs)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert PackedLauncher()._concurrency([parse({"device": "auto"})]) == 1


def test_bad_numbers_and_another_sweeper_are_refused(cli: Cli) -> None:
    for key in ("workers", "concurrency"):
        outcome = cli("-m", *TINY, PACKED, f"hydra.launcher.{key}=0")
        assert outcome.code == 1
        sentence = f"hydra.launcher.{key}=0 must be auto or a number of at least 1"
        assert outcome.err == f"Error: {sentence}\n"
    other = cli("-m", *TINY, PACKED, "hydra/sweeper=basic")
    assert "takes its runs from hydra/sweeper=grid only" in other.err
