"""The display of a sweep: what it reads, what it shows on a terminal and elsewhere, how it ends."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from randlabels import live
from randlabels.config import parse
from randlabels.store import progress, rundir
from randlabels.store.progress import Tracker
from randlabels.store.rundir import RunDir, flat_keys

from .conftest import BASIC, TINY, Cli, locked_elsewhere
from .stand_ins import Clock
from .synthetic import write_run

FAILING = """
import time
from dataclasses import dataclass
from pathlib import Path
from randlabels.loss import CrossEntropy

@dataclass
class Failing(CrossEntropy):
    name = "failing_NAME"

    def __call__(self, logits, labels):
        while len(list(Path("runs").glob("*/*/metrics.jsonl"))) < AT_WORK:
            time.sleep(0.05)
        raise RuntimeError("on purpose")
"""
"""A file of own parts whose loss fails in its first step, once AT_WORK runs have begun."""


def tracker(root: Path, *planned: dict) -> Tracker:
    """Return a tracker of all runs of a folder and of planned ones without a folder."""
    trees = [yaml.safe_load(file.read_text()) for file in sorted(root.glob("*/config.yaml"))]
    configs = [parse({**tree, "imports": None}) for tree in [*trees, *planned]]
    return Tracker((RunDir(root / config.run_id), flat_keys(config.tree())) for config in configs)


def terminal(width: int, height: int = 24) -> Console:
    return Console(force_terminal=True, width=width, height=height, file=io.StringIO())


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rendered_lines(console: Console, runs: list[progress.Survey]) -> list[str]:
    plain = Console(width=console.width, file=io.StringIO())
    plain.print(live.render(runs, console.width, console.height))
    return text_of(plain).splitlines()


def test_counts_and_lines_are_those_of_the_run_folders(tmp_path: Path) -> None:
    write_run(tmp_path, [0.5, 1.0], seed=1)
    write_run(tmp_path, [0.5, 1.0], seed=2)
    failed = write_run(tmp_path, [0.5], state="interrupted", seed=3)
    write_run(tmp_path, [0.5], state="diverged", seed=4)
    write_run(tmp_path, [0.5], state="interrupted", seed=5)
    running = write_run(tmp_path, [0.25, 0.5], state="interrupted", seed=6, corrupt=0.5)
    planned = {"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "seed": 7}
    found = tracker(tmp_path, planned)
    rundir.write_json(failed.error, {"exception": "OSError: no"})
    with locked_elsewhere(running):
        runs = found.look()
    shown = rendered_lines(terminal(80), runs)
    heading, line, _, counts = shown
    assert heading.split() == "model corrupt seed epoch train test left".split()
    assert line.split()[:1] + line.split()[-7:-2] == ["mlp", "0.5", "6", "2/2", "50.00", "56.00"]
    assert counts == "1 diverged, 2 done, 1 failed, 1 running, 2 waiting"


def test_runs_that_are_finished_or_have_no_folder_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, [0.5, 1.0])
    keys = {"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "epochs": 2, "seed": 1}
    read, survey = [], progress.survey

    def record_and_survey(run: RunDir, *arguments: Any) -> object:
        read.append(run.path)
        return survey(run, *arguments)

    monkeypatch.setattr(progress, "survey", record_and_survey)
    found = tracker(tmp_path, keys)
    assert found.look() == found.look() and len(read) == 2
    begun = write_run(tmp_path, [0.5, 1.0], state="interrupted", seed=1)
    for _ in range(2):
        assert [run["state"] for run in found.look()] == ["done", "interrupted"]
    assert read[2:] == [begun.path] * 2


def test_failure_of_an_earlier_launch_waits_until_it_fails_again(tmp_path: Path) -> None:
    run = write_run(tmp_path, [0.5], state="failed")
    again = tracker(tmp_path)
    (before,) = again.look()
    rundir.write_json(run.error, {"exception": "ValueError: again", "traceback": ""})
    (after,) = again.look()
    assert (before["state"], after["state"]) == ("interrupted", "failed")


@pytest.mark.parametrize("no_color", ["", "1"])
@pytest.mark.parametrize("width", [60, 100])
def test_display_fits_the_terminal_and_obeys_no_color(
    width: int, no_color: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve runs at work and a long name, in ten lines; one row for each fits 100 columns."""
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    model = {"name": "inception_no_bn"}
    for seed in range(12):
        rate = {"name": "sgd", "lr": 0.1 * (1 + seed)}
        write_run(tmp_path, [0.5] * 300, seed=seed, model=model, optimizer=rate)
    runs = [{**run, "state": "running"} for run in tracker(tmp_path).look()]
    console = terminal(width, height=10)
    with live.display(console) as show:
        show(runs)
        drawn = text_of(console)
    assert bool(re.search(r"\x1b\[[\d;]*3\dm", drawn)) == (not no_color)
    lines = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]|\r", "", drawn).splitlines()
    assert max(map(len, lines)) <= width and len(lines) <= 10
    assert lines[0].split()[-1] == "left" and "300/300" in lines[1] and "and 7 more" in lines[6]
    assert ("lr=0.1" in lines[1]) == (width == 100)
    assert all(re.search(r" 50\.00 +\d+\.00 ", line) for line in lines[1:6])


def test_failure_appears_on_a_terminal_and_stays(tmp_path: Path) -> None:
    run = write_run(tmp_path, [0.5], state="interrupted")
    found, console = tracker(tmp_path), terminal(200)
    with live.display(console) as show:
        show(found.look())
        rundir.write_json(run.error, {"exception": "ValueError: bad\nworse", "traceback": ""})
        show(found.look())
        show(found.look())
    line = f"{run.run_id}: failed, ValueError: bad; see {run.log}"
    plain = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]|\r", "", text_of(console))
    assert plain.replace("\n", "").count(line) == 1
    assert text_of(console).endswith("\x1b[2K") and "\x1b[?25h" in text_of(console)


def test_without_a_terminal_runs_have_a_line_at_begin_and_end_and_one_a_minute(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture
) -> None:
    run = write_run(tmp_path, [0.5, 1.0])
    finished = run.done.read_bytes()
    run.done.unlink()
    found = tracker(tmp_path)
    with live.display(Console(force_terminal=False), at_once=False) as show:
        show(found.look())
        with locked_elsewhere(run):
            for seconds in range(0, 100, 10):
                clock.now = seconds
                show(found.look())
        run.done.write_bytes(finished)
        show(found.look())
    begins, minute, ends = capsys.readouterr().out.splitlines()
    assert begins == f"{run.run_id}: begins"
    assert minute.startswith("1 run: 1 running. 2 epochs done, 0 to go")
    assert ends == f"{run.run_id}: done, 2 epochs, train acc 100.00, test acc 90.00"


def test_error_of_the_display_is_reported_and_ends_no_sweep(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    for error, shown in ((ZeroDivisionError("x"), "The display ended"), (BrokenPipeError(), "")):

        def look(error: Exception = error) -> list[progress.Survey]:
            raise error

        with live.showing(look):
            time.sleep(0.05)
        assert capsys.readouterr().err.startswith(shown) and (shown or True)


def test_sweep_prints_no_epochs_unless_verbose(cli: Cli, tmp_path: Path) -> None:
    quiet = cli("-m", *TINY, BASIC)
    (log,) = tmp_path.glob("runs/*/*/run.log")
    assert "Acc-tr" in log.read_text() and "Acc-tr" not in quiet.out
    assert re.search(r"^mlp-\S+: done, 2 epochs, train acc \d+\.\d\d, test acc", quiet.out, re.M)
    verbose = cli("-m", *TINY, BASIC, "seed=1", "verbose=true")
    assert re.search(r"^mlp-\S+ 001: Acc-tr:", verbose.out, re.M) and ": done," not in verbose.out


@pytest.mark.slow
def test_interrupted_sweep_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    """Ctrl-C while the live display is drawn; the cursor comes back."""
    sweep = ["-m", *TINY, BASIC, "epochs=1000000", "checkpoint_every=1"]
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "randlabels.run", *sweep]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60"}
    shown, sent = b"", False
    with (
        open(leader, "rb", buffering=0) as file,
        subprocess.Popen(
            ["env", "--default-signal=INT", *command],
            cwd=tmp_path,
            env=environment,
            stdout=follower,
            stderr=follower,
        ) as process,
    ):
        os.close(follower)
        try:
            while part := file.read(4096):
                shown += part
                if b"1 running" in shown and not sent:
                    process.send_signal(signal.SIGINT)
                    sent = True
        except OSError:  # Linux reports the end in this way
            pass
        assert process.wait() == 130
    hidden, back = shown.rfind(b"\x1b[?25l"), shown.rfind(b"\x1b[?25h")
    assert 0 <= hidden < back and b"Acc-tr" not in shown and b"Traceback" not in shown
    assert b"1 interrupted" in shown[back:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        [BASIC],
        ["hydra.launcher.n_jobs=2"],
        ["hydra/launcher=packed", "hydra.launcher.workers=2"],
    ],
    ids=["basic", "joblib", "packed"],
)
def test_on_failure_stop_starts_no_further_run_and_stops_those_at_work(
    launcher: list[str],
    cli: Cli,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    forgotten_parts: None,
) -> None:
    """The first run fails; the others would take hours. Two are at work, but for `basic`."""
    name, at_work = request.node.callspec.id, 1 if launcher == [BASIC] else 2
    text = FAILING.replace("NAME", name).replace("AT_WORK", str(at_work))
    (tmp_path / f"failing_{name}.py").write_text(text)  # a process imports a name once
    grids = f"{{loss: failing_{name}}}, {{seed: 'range(1,5)', epochs: 1000000}}"
    keys = [f"imports=[failing_{name}.py]", f"hydra.sweeper.runs=[{grids}]", "on_failure=stop"]
    stopped = cli("-m", *TINY[:4], *keys, *launcher)
    assert stopped.code == 1
    states = [RunDir(path.parent).state() for path in tmp_path.glob("runs/*/*/config.yaml")]
    assert sorted(states) == ["failed", "interrupted"][:at_work]
    assert "Stopped by the first failure (on_failure=stop)." in stopped.out


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (["on_failure=maybe"], "on_failure=maybe must be continue or stop"),
        (["verbose=much"], "verbose=much has the wrong type"),
        (["on_failure=stop", "hydra/launcher=slurm"], "must be continue with hydra/launcher=slurm"),
        (["on_failure=stop", "hydra/launcher=slurm", "plan=true"], "must be continue with hydra"),
    ],
)
def test_bad_key_is_one_sentence(keys: list[str], sentence: str, cli: Cli, tmp_path: Path) -> None:
    refused = cli("-m", *TINY, *keys)
    assert refused.code == 1 and sentence in refused.err and len(refused.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
