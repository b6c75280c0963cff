"""`analysis.status`: states, progress and time left, from the files alone."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis import status
from randlabels.config import parse
from randlabels.store import metrics, progress, rundir
from randlabels.store.rundir import RunDir

from .conftest import BASIC, TINY, Cli, locked_elsewhere
from .stand_ins import Clock
from .synthetic import record, write_run


def survey_by_id(root: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    runs, problems = status.survey(root)
    return {run["run_id"]: run for run in runs}, problems


def test_every_state_is_distinguished(tmp_path: Path) -> None:
    """Half done, one failed, diverged, torn, foreign, of another schema, damaged, planned."""
    done = write_run(tmp_path, [0.5, 1.0])
    failed = write_run(tmp_path, [0.5], state="failed", seed=1)
    diverged = write_run(tmp_path, [0.5], state="diverged", seed=2)
    torn = write_run(tmp_path, [0.5, 0.6], state="interrupted", seed=3)
    torn.metrics.write_bytes(torn.metrics.read_bytes()[:-9])
    newer = write_run(tmp_path, [0.5], seed=4)
    rundir.write_json(newer.environment, {"schema": 2})
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.yaml").write_text("lr: 1\n")
    damaged = write_run(tmp_path, [0.5], seed=5)
    damaged.config.write_text("[")
    planned = parse({"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "seed": 6})
    rundir.merge_plan(tmp_path, [{"run_id": planned.run_id, "config": planned.tree()}])

    runs, problems = survey_by_id(tmp_path)
    assert {run_id: run["state"] for run_id, run in runs.items()} == {
        done.run_id: "done",
        failed.run_id: "failed",
        diverged.run_id: "diverged",
        torn.run_id: "interrupted",
        planned.run_id: "planned",
    }
    assert runs[torn.run_id]["epoch"] == 1
    text = "\n".join(sorted(problems))
    assert f"{torn.path}: the last line of metrics.jsonl is torn" in text
    assert f"{newer.path} is skipped: it was written as schema 2" in text
    assert f"{foreign} is skipped: config.yaml was not written by randlabels" in text
    assert f"{damaged.path} is skipped: damaged (" in text
    assert len(problems) == 4


def test_running_run_shows_progress_speed_and_time_left(tmp_path: Path) -> None:
    run = write_run(tmp_path, [0.1] * 4, state="interrupted")
    lines = [record(epoch, 0.5, 0.25) | {"seconds": 2.0} for epoch in range(3)]
    run.metrics.write_text("".join(metrics.encode(line) + "\n" for line in lines))
    with locked_elsewhere(run):
        runs, _ = status.survey(tmp_path)
    (found,) = runs
    assert found["state"] == "running"
    assert (found["epoch"], found["epochs"], found["seconds_left"]) == (3, 4, 2.0)
    assert (found["train_acc"], found["test_acc"]) == (0.5, 0.25)
    summed = status.totals(runs)
    assert (summed["epochs_done"], summed["epochs_left"], summed["seconds_left"]) == (3, 1, 2.0)
    assert status.survey(tmp_path)[0][0]["state"] == "interrupted"


def test_time_left_is_that_of_all_unfinished_runs(tmp_path: Path) -> None:
    """One run at 2 s an epoch has one epoch to go, and a planned one all four."""
    run = write_run(tmp_path, [0.1] * 4, state="interrupted")
    lines = [record(epoch, 0.5, 0.25) | {"seconds": 2.0} for epoch in range(3)]
    run.metrics.write_text("".join(metrics.encode(line) + "\n" for line in lines))
    keys = {"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "epochs": 4, "seed": 1}
    planned = parse(keys)
    rundir.merge_plan(tmp_path, [{"run_id": planned.run_id, "config": planned.tree()}])
    with locked_elsewhere(run):
        runs, _ = status.survey(tmp_path)
    assert status.totals(runs)["seconds_left"] == 2.0 * (1 + 4)
    assert "5 to go" in status.summary(runs) and "about 10 s left" in status.summary(runs)


def test_run_on_another_host_is_running_while_it_writes_and_stale_after(tmp_path: Path) -> None:
    run = write_run(tmp_path, [0.1], state="interrupted")
    content = json.loads(run.environment.read_text()) | {"host": "elsewhere"}
    run.environment.write_text(json.dumps(content))
    assert status.survey(tmp_path)[0][0]["state"] == "running"
    long_ago = time.time() - progress.STALE_AFTER_SECONDS - 10
    os.utime(run.metrics, (long_ago, long_ago))
    (found,) = status.survey(tmp_path)[0]
    assert found["state"] == "stale" and found["age"] == pytest.approx(130, abs=20)


def test_run_that_holds_its_lock_without_a_sign_of_life_is_stale(tmp_path: Path) -> None:
    """A process that hangs, or that was stopped; one that only takes long gives signs."""
    run = write_run(tmp_path, [0.1], state="interrupted")
    with run.lock():
        long_ago = time.time() - progress.STALE_AFTER_SECONDS - 10
        for file in (run.metrics, run.path / ".lock"):
            os.utime(file, (long_ago, long_ago))
        assert status.survey(tmp_path)[0][0]["state"] == "stale"
        run.beat()
        assert status.survey(tmp_path)[0][0]["state"] == "running"


def test_exact_fit_has_one_record_to_write(cli: Cli, tmp_path: Path) -> None:
    """Its config names 300 epochs, which have no meaning for it."""
    assert cli("dataset=digits", "dataset.train_size=64", "model=kernel").code == 0
    folder = tmp_path / "runs" / "default"
    planned = parse({"dataset": {"name": "digits"}, "model": {"name": "theorem1"}})
    rundir.merge_plan(folder, [{"run_id": planned.run_id, "config": planned.tree()}])
    runs, _ = status.survey(folder)
    found = [(run["state"], run["epoch"], run["epochs"]) for run in runs]
    assert found == [("done", 1, 1), ("planned", 0, 1)]
    assert status.totals(runs)["epochs_left"] == 1


def test_table_and_json_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = write_run(tmp_path, [0.5, 1.0])
    status.main([str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["totals"]["states"] == {"done": 1}
    assert found["runs"][0]["run_id"] == run.run_id and found["problems"] == []
    status.main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert run.run_id in shown and "2/2" in shown and "100.00" in shown
    assert "1 run: 1 done. 2 epochs done, 0 to go" in shown
    with pytest.raises(SystemExit, match="nowhere must be a folder"):
        status.main([str(tmp_path / "nowhere")])


def test_runs_are_named_in_full_on_a_narrow_terminal(tmp_path: Path) -> None:
    """The last columns are left out where they do not fit; nothing is cut."""
    run = write_run(tmp_path, [0.5, 1.0])
    runs, problems = status.survey(tmp_path)
    for width, columns in ((80, "run state epoch"), (200, "host images/s age")):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(status.render(tmp_path, runs, problems, width))
        shown = console.export_text()
        assert all(name in shown for name in [run.run_id, *columns.split()])
        assert ("host" in shown) == (width == 200)


def test_watching_ends_when_all_runs_are_finished_or_on_interrupt(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture
) -> None:
    """Through a pipe, the totals are printed whenever they change."""
    run = write_run(tmp_path, [0.5, 1.0])
    finished = run.done.read_text()
    run.done.unlink()
    looks = 0

    def finish() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            run.done.write_text(finished)

    clock.after_sleep = finish
    status.main([str(tmp_path), "--watch"])
    shown = capsys.readouterr().out
    assert looks == 3 and shown.count("1 run: 1 interrupted. 2 epochs done") == 1
    assert shown.index("1 run: 1 interrupted") < shown.index("1 run: 1 done")

    def interrupt() -> None:
        raise KeyboardInterrupt

    run.done.unlink()
    clock.after_sleep = interrupt
    status.main([str(tmp_path), "--watch"])
    assert "1 run: 1 interrupted" in capsys.readouterr().out


def test_watching_ends_some_time_after_an_interrupted_launch(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture
) -> None:
    """One run was interrupted, another never started; a launch that has not begun is awaited."""
    planned = parse({"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "seed": 1})
    rundir.merge_plan(tmp_path, [{"run_id": planned.run_id, "config": planned.tree()}])
    begun_at = 10 * status.IDLE_SECONDS

    def begin() -> None:
        if clock.now == begun_at:
            write_run(tmp_path, [0.5, 1.0], state="interrupted")

    clock.after_sleep, clock.shortest = begin, status.IDLE_SECONDS / 2
    status.main([str(tmp_path), "--watch"])
    assert begun_at + status.IDLE_SECONDS <= clock.now <= begun_at + 3 * status.IDLE_SECONDS
    assert "2 runs: 1 interrupted, 1 planned" in capsys.readouterr().out


def test_failure_is_shown_with_its_error_and_log_and_ends_the_watching(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture
) -> None:
    """Only another launch retries such a run."""
    write_run(tmp_path, [0.5])
    failed = write_run(tmp_path, [0.5], state="failed", seed=1)
    rundir.write_json(failed.error, {"exception": "RuntimeError: CUDA error\nin a kernel"})

    def fail() -> None:
        raise AssertionError("it went on watching")

    clock.after_sleep = fail
    status.main([str(tmp_path), "--watch"])
    sentence = f"{failed.run_id}: failed, RuntimeError: CUDA error; see {failed.log}"
    assert sentence in capsys.readouterr().out.replace("\n", "")
    status.main([str(tmp_path), "--json"])
    found = {run["run_id"]: run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert found[failed.run_id]["error"] == "RuntimeError: CUDA error"
    assert [run["error"] for run in found.values()].count(None) == 1


def test_command_of_a_failed_run_repeats_it_alone(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Without `force=true`, which would move its checkpoint away."""
    assert cli("-m", *TINY, BASIC, "model.hidden=[8],[9]", "out=my runs", "force=true").code == 0
    failed, other = (RunDir(path.parent) for path in tmp_path.glob("my runs/*/*/done.json"))
    failed.done.rename(failed.error)
    before = other.done.stat().st_mtime_ns
    status.main([str(tmp_path / "my runs")])
    (command,) = re.findall(
        r"^Repeat it: python -m randlabels.run (.*)", capfd.readouterr().out, re.M
    )
    assert "force" not in command
    assert cli(*shlex.split(command)).code == 0
    assert (failed.state(), other.done.stat().st_mtime_ns) == ("done", before)
    status.main([str(other.path)])
    assert "Repeat it: " in capfd.readouterr().out


def test_accuracies_are_the_latest_that_were_measured(tmp_path: Path) -> None:
    run = write_run(tmp_path, [0.5, 0.75, 0.25])
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    lines[2] |= dict.fromkeys(metrics.MEASURED)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (found,) = status.survey(tmp_path)[0]
    assert (found["epoch"], found["train_acc"]) == (3, 0.75)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (3.2, "3 s"), (119, "119 s"), (720, "12 min"), (18_400, "5.1 h"), (2e5, "2.3 d")],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert status.duration(seconds) == text
