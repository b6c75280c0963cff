"""Signals, the time limit and dead launches, with real processes."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from randlabels.machine import stopping
from randlabels.store.rundir import RunDir

from .conftest import BASIC, Cli, final_state, only_run, started, untimed_lines, wait_until
from .stand_ins import Clock

SLOW = ["dataset=digits", "model=wrn", "model.depth=10", "model.dropout=0.2", "threads=1"]
SLOW += ["augment=crop_flip", "batch_size=16", "dataset.train_size=640", "corrupt=1.0"]
"""Training steps take some 10 ms, 40 per epoch; every generator and buffer is in use."""


def wait_for_epochs(root: Path, epochs: int, runs: int = 1) -> list[RunDir]:
    """Wait until `runs` runs under `root` have at least `epochs` lines of metrics."""

    def lines() -> dict[Path, int]:
        files = root.glob("runs/*/*/metrics.jsonl")
        return {f.parent: n for f in files if (n := f.read_bytes().count(b"\n"))}

    wait_until(lambda: sum(n >= epochs for n in lines().values()) >= runs)
    return [RunDir(folder) for folder in lines()]


SLOW_TEST = pytest.mark.slow


def slow_unless(wanted: object, cases: Sequence[object]) -> list[object]:
    """Mark all cases but `wanted` as slow: each starts a process of several seconds."""
    return [case if case == wanted else pytest.param(case, marks=SLOW_TEST) for case in cases]


@pytest.mark.parametrize(
    "number", slow_unless(signal.SIGTERM, stopping.SIGNALS), ids=lambda number: number.name
)
def test_signal_ends_a_run_within_its_epoch_and_it_ends_with_the_undisturbed_numbers(
    number: signal.Signals, cli: Cli, tmp_path: Path
) -> None:
    """The signal comes in the middle of an epoch: all that is in it must be kept."""
    arguments = [*SLOW, "epochs=3"]
    with started(tmp_path, *arguments) as process:
        wait_for_epochs(tmp_path, 1)
        time.sleep(0.05)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert f"Stopped by {number.name}; the same command continues" in out
    assert "Traceback" not in out
    run = RunDir(only_run(tmp_path))
    assert run.state() == "interrupted" and not run.error.exists()
    resumed = cli(*arguments)
    assert resumed.code == 0 and "Resuming" in resumed.out
    assert cli(*arguments, "out=undisturbed").code == 0
    other = RunDir(next((tmp_path / "undisturbed").glob("*/*/done.json")).parent)
    assert untimed_lines(run.path) == untimed_lines(other.path)
    assert final_state(run) == final_state(other)


@SLOW_TEST
def test_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    """Steps of minutes, so that no safe point comes in between."""
    huge = ["dataset=digits", "model=mlp", "model.hidden=[9000,9000]", "batch_size=1442"]
    with started(tmp_path, *huge, "threads=1", "epochs=500") as process:
        wait_until(lambda: list(tmp_path.glob("runs/*/*/corruption.json")))
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - began < 30
    assert "Interrupted. The same command continues" in out or "Stopped by SIGINT" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number", "group"),
    [
        ("hydra.launcher.n_jobs=2", signal.SIGINT, True),  # a person's Ctrl-C goes to all
        # `kill` to the launch alone
        pytest.param("hydra.launcher.n_jobs=2", signal.SIGTERM, False, marks=SLOW_TEST),
        pytest.param(BASIC, signal.SIGTERM, False, marks=SLOW_TEST),
    ],
    ids=["ctrl-c", "joblib", "basic"],
)
def test_signal_to_a_sweep_reaches_all_runs_and_the_table_is_printed(
    launcher: str, number: signal.Signals, group: bool, cli: Cli, tmp_path: Path
) -> None:
    sweep = ["-m", *SLOW[:-1], "corrupt=0.0,0.5,1.0", "epochs=400", "verbose=true", launcher]
    with started(tmp_path, *sweep) as process:
        runs = wait_for_epochs(tmp_path, 1, 1 if launcher == BASIC else 2)
        (os.killpg if group else os.kill)(process.pid, number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    begun = len(runs)
    counts = f"{begun} interrupted, {3 - begun} planned"
    assert f"3 runs in runs/default: {counts}" in out
    assert out.count(f"Stopped by {number.name}") >= (1 if launcher != BASIC else 2)
    assert "Traceback" not in out and "gave up" not in out
    for run in runs:
        assert run.state() == "interrupted"
        lines = len(untimed_lines(run.path))
        assert last_epoch(run) == lines, "a run ended without a checkpoint"


def last_epoch(run: RunDir) -> int:
    """Return the number of epochs in the checkpoint of any config."""
    import torch

    return torch.load(run.checkpoint, weights_only=True)["epoch"]


@SLOW_TEST
def test_workers_of_a_dead_launch_stop_with_a_checkpoint(tmp_path: Path) -> None:
    sweep = ["-m", *SLOW[:-1], "corrupt=0.0,1.0", "epochs=400", "hydra.launcher.n_jobs=2"]
    with started(tmp_path, *sweep) as process:
        runs = wait_for_epochs(tmp_path, 1, 2)
        process.kill()
        process.wait()
        wait_until(lambda: not any(run.state() == "running" for run in runs), seconds=20)
        assert [run.state() for run in runs] == ["interrupted"] * 2
        for run in runs:
            assert "Stopped by the end of its launch" in run.log.read_text()
            assert last_epoch(run) == len(untimed_lines(run.path))


@SLOW_TEST
@pytest.mark.parametrize("multirun", [False, True], ids=["run", "sweep"])
def test_time_limit_stops_before_it_with_a_checkpoint_and_makes_progress_each_time(
    multirun: bool, tmp_path: Path
) -> None:
    arguments = ["-m", "hydra.launcher.n_jobs=2", "verbose=true"] * multirun
    places = []
    for _ in range(2):
        began = time.monotonic()
        with started(tmp_path, *arguments, *SLOW, "epochs=1000", "time_limit=12") as process:
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 143, out
        assert time.monotonic() - began < 12 + 4  # the limit counts from when Python has started
        place = re.search(r"Stopped by time_limit=12; the same command continues (.*)\.", out)
        assert place is not None
        places.append([int(n) for n in re.findall(r"\d+", place[1])])
        assert RunDir(only_run(tmp_path)).state() == "interrupted"
    assert places[0] < places[1]


@pytest.mark.slow
def test_time_limit_of_a_sweep_starts_no_more_runs(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each training step takes a second more: ninety of them fit."""
    real = stopping.Watch.__call__

    def slowly(watch: stopping.Watch) -> None:
        stopping._here.began -= 1
        real(watch)

    monkeypatch.setattr(stopping.Watch, "__call__", slowly)
    arguments = ["-m", BASIC, *SLOW[:-1], "corrupt=0.0,0.5,1.0", "epochs=1000"]
    stopped = cli(*arguments, "time_limit=100")
    assert stopped.code == 143
    assert "3 runs in runs/default: 1 interrupted, 2 planned" in stopped.out
    assert stopped.out.splitlines()[-1].startswith("Stopped by time_limit=100. The same command")
    again = cli(*arguments, "time_limit=90", "verbose=true")  # no part of the run's identity
    assert again.code == 143 and "Resuming" in again.out


@pytest.mark.parametrize("launcher", [[], ["-m", BASIC], ["-m", "hydra.launcher.n_jobs=2"]])
def test_time_limit_that_is_over_starts_nothing(launcher: list[str], cli: Cli) -> None:
    stopped = cli(*launcher, "dataset=digits", "model=linear", "time_limit=1e-9")
    assert stopped.code == 143 and "Stopped by time_limit=1e-09" in stopped.out + stopped.err
    stopped = cli(*launcher, "dataset=digits", "model=kernel", "time_limit=1e-9")
    assert stopped.code == 143 and "planned" in stopped.out + stopped.err


def init_and_signal(watch: stopping.Watch, *arguments: object) -> None:
    """Replaces Watch.__init__: the signal comes when the work begins."""
    watch.time_limit, watch.beats, watch.polled = None, [], -1.0
    watch.asked = watch.beaten = time.monotonic()
    os.kill(os.getpid(), signal.SIGTERM)


def test_exact_fit_is_left_between_two_blocks_and_begins_anew(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["dataset=digits", "model=kernel"]
    with monkeypatch.context() as patch:
        patch.setattr(stopping.Watch, "__init__", init_and_signal)
        stopped = cli(*arguments)
    assert stopped.code == 143 and "Stopped by SIGTERM; the same command solves it" in stopped.out
    assert RunDir(only_run(tmp_path)).state() == "interrupted"
    assert cli(*arguments).code == 0


def test_time_limit_leaves_room_for_the_next_step_and_the_end(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake clock: of 200 s, 10 are kept back, of 20 s a fifth, and twice the step."""
    clock.now = 1000.0
    stopping.begin()
    watch = stopping.Watch(20.0, [])
    for now, step, stops in ((1189, 0, False), (1191, 0, True), (1180, 4, False), (1180, 6, True)):
        clock.now = now
        assert (stopping.reason(200.0, step) is not None) == stops
    assert stopping.reason(None, 1e9) is None
    clock.now = 1016.5
    with pytest.raises(stopping.Interrupted, match="time_limit=20"):
        watch()
    monkeypatch.undo()
    stopping.begin()


def test_earlier_handlers_come_back() -> None:
    earlier = [signal.getsignal(number) for number in stopping.SIGNALS]
    stopping.begin()
    with stopping.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stopping.reason(None) == "SIGUSR1" and stopping.exit_code() == 143
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == earlier
    stopping.begin()
    assert stopping.reason(None) is None
