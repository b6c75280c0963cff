"""Disks that are full or read-only, files that vanish or are damaged, paths that lead elsewhere."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from randlabels.store import checkpoint, metrics
from randlabels.store.rundir import RunDir, read_plan

from .conftest import BASIC, TINY, Cli, only_run, started, untimed_lines, wait_until
from .test_bad_input import FOLDER, write_spoiled_folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_disk_that_fills_up_during_a_run_costs_nothing_that_was_committed(
    cli: Cli, tmp_path: Path, small_disk: Path
) -> None:
    arguments = [*TINY[:2], "model.hidden=[64]", TINY[3], "epochs=80", "checkpoint_every=0"]
    arguments_there = [*arguments, "threads=1", f"out={small_disk}"]
    with started(tmp_path, *arguments_there, stderr=subprocess.PIPE) as process:
        wait_until(lambda: list(small_disk.glob("*/*/checkpoint.prev.pt")))
        free = shutil.disk_usage(small_disk).free
        (small_disk / "filler").write_bytes(b"x" * max(0, free - 4096))
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    (run,) = (RunDir(f.parent) for f in small_disk.glob("*/*/config.yaml"))
    assert "No space left on device" in err + run.log.read_text()
    assert str(run.path) in err + run.log.read_text() and "Logging error" not in err
    assert run.state() in ("failed", "interrupted")
    assert not list(run.path.glob(".*.tmp"))
    (small_disk / "filler").unlink()
    resumed = cli(*arguments_there)
    assert resumed.code == 0 and "Resuming after epoch" in resumed.out
    assert cli(*arguments, "threads=1").code == 0
    assert untimed_lines(run.path) == untimed_lines(only_run(tmp_path))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.slow
def test_run_that_cannot_write_is_listed_and_a_rerun_mends_it(cli: Cli, tmp_path: Path) -> None:
    """A limit on the size of files: one run's checkpoint is above it, the other's is not."""
    sweep = ["-m", BASIC, *TINY[:2], TINY[3], "epochs=2", "model.hidden=[8],[512]"]
    with files_of_at_most(200_000):
        first = cli(*sweep)
    assert first.code == 1 and "2 runs in runs/default: 1 done, 1 failed" in first.out
    (error,) = tmp_path.glob("runs/*/*/error.json")
    run = RunDir(error.parent)
    reason = f"OSError: [Errno 27] File too large: '{run.checkpoint.relative_to(tmp_path)}'"
    where = run.log.relative_to(tmp_path)
    assert f"{run.run_id}: failed, {reason}; see {where}" in first.out
    assert not list(run.path.glob(".*.tmp"))
    assert cli(*sweep).code == 0


def test_old_checkpoint_survives_a_failed_save(tmp_path: Path) -> None:
    file, previous = tmp_path / "checkpoint.pt", tmp_path / "checkpoint.prev.pt"
    for epoch in range(2):
        checkpoint.save(file, {"config_hash": "x", "epoch": epoch}, previous)
    before = file.read_bytes(), previous.read_bytes()
    with files_of_at_most(100), pytest.raises(OSError, match=f"File too large: '{file}'"):
        checkpoint.save(file, {"config_hash": "x", "epoch": 2}, previous)
    assert (file.read_bytes(), previous.read_bytes()) == before
    assert sorted(tmp_path.iterdir()) == sorted([file, previous])


@pytest.mark.parametrize("multirun", [False, True], ids=["run", "sweep"])
def test_read_only_folder_is_said_in_one_sentence(
    multirun: bool, cli: Cli, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    outcome = cli(*["-m", BASIC] * multirun, *TINY, f"out={small_disk}")
    assert outcome.code == 1 and outcome.out == ""
    assert outcome.err == f"Error: {small_disk}/default: Read-only file system\n"


@pytest.mark.slow
def test_vanished_data_are_said_in_one_sentence_and_cost_nothing(cli: Cli, tmp_path: Path) -> None:
    write_spoiled_folder(tmp_path / "tree", "not at all")
    arguments = [*FOLDER[:3], "epochs=2"]
    assert cli(*arguments).code == 0
    run = RunDir(only_run(tmp_path))
    whole, before = untimed_lines(run.path), run.checkpoint.read_bytes()
    run.done.unlink()
    (tmp_path / "tree").rename(tmp_path / "gone")
    outcome = cli(*arguments)
    assert outcome.code == 1 and outcome.err.startswith("Error: ") and "tree" in outcome.err
    assert outcome.err.count("\n") == 1
    assert run.checkpoint.read_bytes() == before and run.state() == "interrupted"
    (tmp_path / "gone").rename(tmp_path / "tree")
    assert cli(*arguments).code == 0 and untimed_lines(run.path) == whole


def test_loss_of_power_leaves_no_result_without_its_files_and_no_commit_undone(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk keeps a file's content from its fsync on, and its name from its folder's fsync on."""
    kept: set[str] = set()  # files whose content the disk keeps
    unsettled: set[str] = set()  # names that it may lose
    renamed: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        fsync(handle)
        kept.add(os.readlink(f"/proc/self/fd/{handle}"))
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            unsettled.clear()

    def moved(source: Path, target: Path) -> None:
        assert str(source) in kept or source.name == "checkpoint.pt"
        assert "checkpoint.pt" not in unsettled, "a commit is settled before anything else happens"
        assert target.name != "done.json" or not unsettled
        replace(source, target)
        unsettled.add(target.name)
        renamed.append(target.name)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", moved)
    assert cli(*TINY, f"out={tmp_path.resolve()}/runs", "checkpoint_every=0").code == 0
    assert renamed[-1] == "done.json" and renamed.count("checkpoint.pt") == 3 and not unsettled


@pytest.mark.slow
@pytest.mark.parametrize("name", ["done.json", "metrics.jsonl", "environment.json", "config.yaml"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged_file_of_a_run_is_written_anew(
    name: str, damage: str, cli: Cli, tmp_path: Path
) -> None:
    cli(*TINY)
    run = RunDir(only_run(tmp_path))
    whole = untimed_lines(run.path)
    run.done.unlink() if name != "done.json" else None
    file = run.path / name
    content = file.read_bytes()
    file.write_bytes({"truncated": content[:-20], "garbage": b"\xff{[\0", "empty": b""}[damage])
    again = cli(*TINY)
    assert again.code == 0 and "Traceback" not in again.out
    assert run.state() == "done" and untimed_lines(run.path) == whole
    assert json.loads(run.done.read_text())["epochs"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"\xff\0", b'{"run_id": "x"}\n[1]\n{"run_'])
def test_damaged_plan_is_completed(damage: bytes, cli: Cli, tmp_path: Path) -> None:
    cli("-m", BASIC, *TINY, "seed=0,1")
    folder = tmp_path / "runs" / "default"
    plan = read_plan(folder)
    (folder / "plan.jsonl").write_bytes(damage)
    assert cli("-m", BASIC, *TINY, "seed=0,1").code == 0
    assert set(plan) <= set(read_plan(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.log", "metrics.jsonl", ".lock", "checkpoint.pt", ""])
def test_link_in_a_run_folder_is_refused_and_nothing_is_written_behind_it(
    name: str, cli: Cli, tmp_path: Path
) -> None:
    cli(*TINY)
    run = RunDir(only_run(tmp_path))
    run.done.unlink()
    outside = tmp_path / "outside"
    link = run.path / name
    link.rename(outside)
    link.symlink_to(outside)
    before = outside.read_bytes() if name else sorted(outside.iterdir())
    outcome = cli(*TINY)
    assert outcome.code == 1
    where = link.relative_to(tmp_path)
    assert f"{where} is a link, and a run writes into its own folder only" in outcome.err
    assert (outside.read_bytes() if name else sorted(outside.iterdir())) == before


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("x" * 300, "File name too long"),
        ("nul\\0", None),
        ("tree/file/below", "Not a directory"),
    ],
)
def test_folder_that_cannot_be_is_said_in_one_sentence(
    out: str, sentence: str | None, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").touch()
    outcome = cli(*TINY, f"out={out}".replace("\\0", "\0"))
    assert outcome.code == 1 and outcome.err.startswith("Error: ")
    assert outcome.err.count("\n") == 1 and (sentence or "") in outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"tree"}


@pytest.mark.parametrize("name", ["..", "../up", "/abs", "a\nb", "~", "x" * 101, "a b", "ü", ".h"])
def test_name_cannot_lead_out_of_the_folder(name: str, cli: Cli, tmp_path: Path) -> None:
    outcome = cli(*TINY, f"name='{name}'")
    assert outcome.code == 1 and "must be a safe folder name" in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("out", ["a'; echo foo", "a 0", 'a"=0"', "a\n0", "ünï"])
def test_folders_of_any_name_work(out: str, cli: Cli, tmp_path: Path) -> None:
    """Names that a shell, a URL or a pattern would interpret."""
    here = tmp_path / out
    here.mkdir()
    os.chdir(here)
    assert cli("-m", BASIC, *TINY, "seed=0,1").code == 0
    assert cli("-m", BASIC, *TINY, "seed=0,1").out.count(" 0 of them to do") == 1
    folder = here / "runs" / "default"
    for file in folder.glob("*/metrics.jsonl"):
        assert len(metrics.read(file)[0]) == 2
    collect = [sys.executable, "-m", "analysis.collect", str(folder)]
    assert subprocess.run(collect, capture_output=True).returncode == 0
    assert (folder / "summary" / "runs.csv").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {out}
