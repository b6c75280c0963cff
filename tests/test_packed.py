"""The launcher `packed`, with real processes and signals: same numbers, no orphan processes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import Pipe, get_context
from pathlib import Path
from subprocess import DEVNULL

import pytest

from randlabels.config import Config, parse
from randlabels.launchers import packed
from randlabels.launchers.packed import Packed
from randlabels.machine import resources
from randlabels.store import metrics
from randlabels.store.rundir import RunDir

from .conftest import BASIC, TINY, Cli, started, untimed_lines, wait_until

PACKED = "hydra/launcher=packed"
LONG = ["-m", *TINY, "epochs=100000", "checkpoint_every=0.05", PACKED]
"""Runs that do not end without a signal."""


def environment_values(root: Path, key: str) -> list:
    """Return one entry of each run's environment.json."""
    files = root.glob("runs/*/*/environment.json")
    return [json.loads(file.read_text())[key] for file in files]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_numbers_equal_those_of_hydras_basic_launcher(cli: Cli, tmp_path: Path) -> None:
    runs = "{model: wrn, model.depth: 10}, {model: mlp, model.hidden: [8], corrupt: '0.0,1.0'}"
    cells = ["-m", *TINY[:1], *TINY[3:], f"hydra.sweeper.runs=[{runs}]", "threads=1"]
    assert cli(*cells, PACKED, "hydra.launcher.workers=2", "out=packed").code == 0
    assert cli(*cells, BASIC, "out=basic").code == 0
    folders = [file.parent for file in (tmp_path / "basic" / "default").glob("*/metrics.jsonl")]
    assert len(folders) == 3
    for folder in folders:
        assert untimed_lines(tmp_path / "packed" / "default" / folder.name) == untimed_lines(folder)


@pytest.mark.slow
def test_one_worker_executes_several_runs_and_finished_runs_start_no_worker(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ["-m", *TINY, "seed=range(0,6)", PACKED, "hydra.launcher.workers=1"]
    done = cli(*sweep)
    assert done.code == 0 and "6 runs in runs/default: 6 done" in done.out
    pids = environment_values(tmp_path, "pid")
    assert len(pids) == 6 and len(set(pids)) == 1 and os.getpid() not in pids
    assert environment_values(tmp_path, "threads") == [1] * 6
    for file in tmp_path.glob("runs/*/*/metrics.jsonl"):
        assert metrics.read(file)[0][-1]["epoch"] == 1
    monkeypatch.setattr(packed, "Worker", None)
    again = cli(*sweep)
    assert again.code == 0 and "6 runs, 0 of them to do" in again.out


@pytest.mark.slow
def test_killed_worker_is_replaced_and_the_next_launch_resumes_its_run(
    cli: Cli, tmp_path: Path
) -> None:
    """The only worker is killed in the first run; another one executes the rest."""
    runs = "hydra.sweeper.runs=[{seed: 0, epochs: 800}, {seed: 'range(1,4)', epochs: 20}]"
    sweep = ["-m", *TINY[:4], "checkpoint_every=0.02", runs, PACKED, "hydra.launcher.workers=1"]
    with started(tmp_path, *sweep) as process:
        wait_until(lambda: list(tmp_path.glob("runs/*/*/checkpoint.pt")))
        (pid,) = environment_values(tmp_path, "pid")
        os.kill(pid, signal.SIGKILL)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 1, out
    assert "4 runs in runs/default: 3 done, 1 interrupted" in out
    assert ": interrupted, its worker died (killed by SIGKILL); see " in out
    assert len(set(environment_values(tmp_path, "pid"))) == 2
    again = cli(*sweep, "verbose=true")
    assert again.code == 0 and "Resuming after epoch" in again.out
    for file in tmp_path.glob("runs/*/*/metrics.jsonl"):
        epochs = [record["epoch"] for record in metrics.read(file)[0]]
        assert epochs == list(range(len(epochs))) and len(epochs) in (20, 800)


@pytest.mark.slow
def test_workers_stop_when_their_parent_is_killed(tmp_path: Path) -> None:
    def states() -> set[str]:
        return {RunDir(file.parent).state() for file in tmp_path.glob("runs/*/*/config.yaml")}

    with started(tmp_path, *LONG, "seed=0,1", stdout=DEVNULL) as process:
        wait_until(lambda: len(list(tmp_path.glob("runs/*/*/checkpoint.pt"))) >= 1)
        pids = environment_values(tmp_path, "pid")
        process.kill()
        wait_until(lambda: not any(map(is_alive, pids)))
        wait_until(lambda: states() == {"interrupted"})  # also of a worker that wrote no pid yet


def test_worker_that_cannot_read_a_run_exits_and_closes_its_connection() -> None:
    ours, theirs = Pipe()
    process = get_context("spawn").Process(target=packed.work, args=(theirs, 0, ""))
    process.start()
    theirs.close()
    ours.send_bytes(b"not a config tree")
    process.join(60)
    assert process.exitcode == 1 and ours.poll(0)


@pytest.mark.slow
def test_control_c_stops_the_workers_and_exits_with_130(tmp_path: Path) -> None:
    with started(tmp_path, *LONG, "seed=0,1") as process:
        wait_until(lambda: list(tmp_path.glob("runs/*/*/checkpoint.pt")))
        pids = environment_values(tmp_path, "pid")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 130 and "Traceback" not in out
        assert not any(map(is_alive, pids))
    logs = [file.read_text() for file in tmp_path.glob("runs/*/*/run.log")]
    assert logs and all("Stopped by" in log for log in logs)  # none was killed


@pytest.mark.slow
def test_control_c_during_the_imports_shows_no_traceback(tmp_path: Path) -> None:
    many = "seed=range(0,300)"  # more than end before the signal, also on a slow machine
    with started(tmp_path, "-m", *TINY, PACKED, many) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: len(children.read_text().split()) == 2)  # with the resource tracker
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in out and "Stopped by SIGINT" in out


@pytest.mark.slow
def test_run_that_is_refused_in_its_worker_is_reported(tmp_path: Path) -> None:
    """The data vanish between the check and the run."""
    out = str(tmp_path / "runs")
    gone = parse({"dataset": {"name": "image_folder", "root": str(tmp_path / "gone")}, "out": out})
    small = {"name": "digits", "train_size": 64}
    model = {"name": "mlp", "hidden": [8]}
    good = parse({"dataset": small, "model": model, "epochs": 1, "out": out})
    errors = Packed(workers="1").start([gone, good], until=lambda: None)
    assert list(errors) == [gone.run.path] and "gone" in errors[gone.run.path]
    assert good.run.state() == "done"


@pytest.mark.slow
def test_runs_of_one_data_set_follow_each_other(tmp_path: Path) -> None:
    def run(root: str, seed: int) -> Config:
        dataset = {"name": "digits", "train_size": 64, "root": str(tmp_path / root)}
        model = {"name": "mlp", "hidden": [8]}
        return parse(
            {"dataset": dataset, "model": model, "epochs": 1, "seed": seed, "out": str(tmp_path)}
        )

    mixed = [run("b", 0), run("a", 1), run("b", 2), run("a", 3)]
    assert Packed(workers="1").start(mixed, until=lambda: None) == {}
    ended = sorted(mixed, key=lambda config: config.run.done.stat().st_mtime_ns)
    assert [config.seed for config in ended] == [1, 3, 0, 2]


@pytest.mark.parametrize(("threads", "workers"), [("auto", 8), ("1", 8), ("3", 2), ("16", 1)])
def test_workers_fill_the_cores(
    threads: str, workers: int, set_cores: Callable[[int], None]
) -> None:
    set_cores(8)
    assert Packed().count_workers([parse({"threads": threads, "device": "cpu"})]) == workers


@pytest.mark.parametrize(
    ("device", "workers", "processes"),
    [("auto", "auto", 2), ("auto", "3", 6), ("cuda", "2", 4), ("cpu", "auto", 8), ("cpu", "3", 3)],
)
def test_workers_are_counted_per_gpu(
    device: str, workers: str, processes: int, two_gpus: None, set_cores: Callable[[int], None]
) -> None:
    set_cores(8)
    assert Packed(workers=workers).count_workers([parse({"device": device})]) == processes


def test_slots_of_the_workers_spread_over_the_gpus(two_gpus: None) -> None:
    devices = [resources.resolve(parse({}), job=slot).device for slot in range(4)]
    assert devices == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


@pytest.mark.slow
@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_bad_number_of_workers_is_refused(value: str, cli: Cli) -> None:
    outcome = cli("-m", *TINY, PACKED, f"hydra.launcher.workers={value}")
    assert outcome.code == 1
    sentence = f"hydra.launcher.workers={value} must be auto or a number of at least 1"
    assert outcome.err == f"Error: {sentence}\n"


@pytest.mark.slow
@pytest.mark.parametrize("plus", ["", "+"])
def test_the_former_key_concurrency_is_refused(plus: str, cli: Cli) -> None:
    outcome = cli("-m", *TINY, PACKED, f"{plus}hydra.launcher.concurrency=2")
    assert outcome.code == 1 and outcome.err.startswith("Error: hydra.launcher.concurrency is ")
    assert outcome.err.count("\n") == 1
