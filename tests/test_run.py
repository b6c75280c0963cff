"""A single run through the command line: its folder, skipping, resuming, its lock."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from randlabels import __version__
from randlabels.store import metrics
from randlabels.store.rundir import RunDir

from .conftest import (
    BASIC,
    TINY,
    Cli,
    locked_elsewhere,
    only_run,
    started,
    untimed_lines,
    wait_until,
)


def test_single_run_writes_the_promised_files_and_console_lines(cli: Cli, tmp_path: Path) -> None:
    done = cli(*TINY, "corrupt=0.5")
    assert done.code == 0
    run = RunDir(only_run(tmp_path))
    assert re.fullmatch(r"mlp-digits-uniform-p0.5-s0-[0-9a-f]{8}", run.run_id)
    assert run.path.parent == tmp_path / "runs" / "default"
    names = "checkpoint.pt config.yaml corruption.json done.json environment.json .lock"
    names += " metrics.jsonl run.log"
    assert {p.name for p in run.path.iterdir()} == set(names.split())
    lines = done.out.splitlines()
    assert re.fullmatch(r"On .+, (fp32|bf16), \d+ threads?", lines[0])
    assert lines[1] == "Number of parameters: 592"
    pattern = r"\d{3}: Acc-tr: [ \d]{3}\.\d\d, Acc-val: [ \d]{3}\.\d\d, L-tr: \d\.\d{4}, "
    pattern += r"L-val: \d\.\d{4}, Acc-noisy: [ \d]{3}\.\d\d"
    assert all(re.fullmatch(pattern, line) for line in lines[2:4])
    assert run.log.read_text().splitlines() == lines[:4]

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


def test_finished_run_is_not_repeated_and_force_sets_it_aside(cli: Cli, tmp_path: Path) -> None:
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
    assert untimed_lines(folder) == untimed_lines(old)


def test_version_is_that_of_this_program(cli: Cli) -> None:
    assert cli("--version").out == f"randlabels {__version__}\n"


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


def test_done_json_of_another_config_is_ignored(cli: Cli, tmp_path: Path) -> None:
    cli(*TINY)
    run = RunDir(only_run(tmp_path))
    whole = untimed_lines(run.path)
    run.done.write_text('{"config_hash": "00000000", "state": "done"}')
    run.checkpoint.unlink()
    assert run.state() == "interrupted"
    assert cli(*TINY).code == 0
    assert run.state() == "done" and untimed_lines(run.path) == whole


def test_killed_run_resumes_and_ends_with_the_numbers_of_an_undisturbed_run(
    cli: Cli, tmp_path: Path
) -> None:
    arguments = [*TINY, "model.hidden=[64]", "epochs=400", "threads=1"]
    assert cli(*arguments, "out=undisturbed").code == 0
    (undisturbed,) = (tmp_path / "undisturbed").glob("*/*/metrics.jsonl")
    with started(tmp_path, *arguments, "checkpoint_every=0") as process:
        wait_until(lambda: any(p.read_text() for p in tmp_path.glob("runs/*/*/metrics.jsonl")))
        process.kill()
    run = RunDir(only_run(tmp_path))
    assert run.state() == "interrupted"
    resumed = cli(*arguments)
    assert resumed.code == 0 and "Resuming after epoch" in resumed.out
    assert untimed_lines(run.path) == untimed_lines(undisturbed.parent)
    assert [r["epoch"] for r in metrics.read(run.metrics)[0]] == list(range(400))


def test_second_process_leaves_a_running_run_to_the_first(cli: Cli, tmp_path: Path) -> None:
    cli(*TINY)
    run = RunDir(only_run(tmp_path))
    run.done.unlink()
    with locked_elsewhere(run):
        assert run.state() == "running"
        other = cli(*TINY)
        began = json.loads(run.environment.read_text())
        holder = f"executed by pid {began['pid']} on host {began['host']}"
        assert other.code == 0 and f"This run is being {holder}." in other.out
        sweep = cli("-m", *TINY, BASIC)
        assert sweep.code == 0 and "1 run in runs/default: 1 running" in sweep.out
        forced = cli(*TINY, "force=true")
        assert forced.code == 1 and f"is being {holder}; stop that first" in forced.err
        assert run.path.exists()
    assert run.state() == "interrupted"
    assert cli(*TINY).code == 0


def test_tab_completion_suggests_options_and_keys() -> None:
    def complete(line: str) -> list[str]:
        command = [str(Path(sys.executable).with_name("randlabels")), "-sc", "query=bash"]
        environment = {**os.environ, "COMP_LINE": f"randlabels {line}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert {"model=linear", "model=mlp", "model=wrn"} <= set(complete("model="))
    assert complete("dataset.tr") == ["dataset.train_size="]


@pytest.mark.slow
def test_single_run_in_a_terminal_shows_a_progress_bar_and_its_failure(tmp_path: Path) -> None:
    shown = run_in_terminal(tmp_path)
    assert "100%" in shown and "001: Acc-tr:" in shown
    assert "Number of parameters" not in shown  # only run.log has it
    run = RunDir(only_run(tmp_path))
    run.done.unlink()
    run.checkpoint.write_bytes(b"broken")
    assert "is damaged" in run_in_terminal(tmp_path)


def run_in_terminal(folder: Path) -> str:
    """Return what a run writes to a pseudo-terminal."""
    command, shown = [sys.executable, "-m", "randlabels.run", *TINY], b""
    leader, follower = pty.openpty()
    with (
        subprocess.Popen(command, cwd=folder, stdout=follower, stderr=follower),
        open(leader, "rb", buffering=0) as file,
    ):
        os.close(follower)
        try:
            while part := file.read(4096):
                shown += part
        except OSError:  # Linux reports the end in this way
            pass
    return shown.decode()


def test_help_is_printed_where_the_terminal_lacks_characters() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "randlabels.run", "--help"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
    )
    assert done.returncode == 0 and b"randlabels trains a classifier" in done.stdout
