"""Power failures at every call that a run makes: the next launch ends with the same results."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from randlabels.config import Config, parse
from randlabels.execute import execute
from randlabels.store import checkpoint
from randlabels.store.files import make_folder, write_atomic
from randlabels.store.rundir import merge_plan, read_json, read_plan

from .conftest import final_state, untimed_lines
from .power import Disk, Recorder, disks_after_power_failure

SUBSETS = 16  # of unsynced changes before each call: all of them if there are at most four changes

TORN = 8  # further subsets before each call, with torn writes

CUT_AGAIN = 10  # every tenth recovery suffers a second power failure, which leaves two disks

FINISHED = 1_000_000  # progress of a finished run; otherwise, its epochs in a checkpoint

DIGITS = {"dataset": {"name": "digits", "train_size": 64}, "corrupt": 0.5, "threads": "1"}
TRAINED = {"model": {"name": "mlp", "hidden": [4]}, "epochs": 3, "checkpoint_every": 0}
RUNS: dict[str, dict[str, Any]] = {
    "trained": TRAINED,
    "diverged": {**TRAINED, "optimizer": {"name": "sgd", "lr": 1e8}},  # in the last epoch
    "exact": {"model": {"name": "kernel"}},
}


def config_of_kind(root: Path, kind: str) -> Config:
    return parse({**DIGITS, **RUNS[kind], "out": str(root / "runs")})


def launch_recorded(root: Path, config: Config, begun: int = 0) -> Recorder:
    """Plan and execute a run, with progress `begun` on the disk; record changes and commits."""
    save = checkpoint.save
    with Recorder(root) as recorder:

        def save_and_promise(path: Path, state: dict[str, Any], previous: Path) -> None:
            save(path, state, previous)
            recorder.promise(state["epoch"])

        recorder.promise(begun)
        with patch.object(checkpoint, "save", save_and_promise):
            merge_plan(config.folder, [{"run_id": config.run_id, "config": config.tree()}])
            execute([config])
        recorder.promise(FINISHED)
    return recorder


def saved_epoch(config: Config) -> int:
    if config.run.result():
        return FINISHED
    saved = checkpoint.latest(config.run, config.hash)
    return saved["epoch"] if saved else 0


def files_left(config: Config) -> dict[str, Any]:
    """Return what a run leaves, apart from times, the machine and the log."""
    run = config.run
    return {
        "records": untimed_lines(run.path),
        "done": {**(read_json(run.done) or {}), "seconds": None},
        "weights and momentum": final_state(run) if run.checkpoint.exists() else None,
        "config": {**yaml.safe_load(run.config.read_text()), "out": None},
        "corruption": read_json(run.corruption),
        "plan": list(read_plan(config.folder)),
        "files": {path.name for path in run.path.iterdir()} - {run.previous_checkpoint.name},
    }


def recover(root: Path, disk: Disk, promised: int, kind: str, expected: dict) -> Recorder:
    """Launch a run on a disk, which has the promised progress; it ends as expected."""
    shutil.rmtree(root, ignore_errors=True)
    disk.build(root)
    config = config_of_kind(root, kind)
    kept = saved_epoch(config)
    assert kept >= promised
    recorder = launch_recorded(root, config, kept)
    assert files_left(config) == expected
    return recorder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "least"), [("trained", 800), ("diverged", 400), ("exact", 300)])
def test_every_disk_that_a_power_failure_may_leave_recovers_and_keeps_all_commits(
    kind: str, least: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    undisturbed, root, rng = tmp_path / "undisturbed", tmp_path / "disk", Random(0)
    undisturbed.mkdir()
    config = config_of_kind(undisturbed, kind)
    first = launch_recorded(undisturbed, config)
    assert first.after().contents() == Recorder(undisturbed).before.contents()  # missed no change
    expected = files_left(config)
    assert expected["done"]["state"] == ("diverged" if kind == "diverged" else "done")
    once = twice = 0
    for disk, promised in disks_after_power_failure(first, SUBSETS, TORN, rng):
        second = recover(root, disk, promised, kind, expected)
        once += 1
        if once % CUT_AGAIN == 0:
            for again in rng.sample(list(disks_after_power_failure(second, 4, 1, rng)), 2):
                recover(root, *again, kind, expected)
                twice += 1
    with capsys.disabled():
        print(f"\n{kind}: {once} disks after one power failure and {twice} after two: all recover")
    assert once + twice >= least


def test_file_in_a_new_folder_survives_a_power_failure(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "file"
    with Recorder(tmp_path) as recorder:
        make_folder(file.parent)
        write_atomic(file, "content")
        recorder.promise(1)
    disks = list(disks_after_power_failure(recorder, SUBSETS, TORN, Random(0)))
    kept = [disk.contents().get("./new/folder/file") == b"content" for disk, _ in disks]
    assert kept[-1] and not kept[0] and all(kept[i] for i, (_, done) in enumerate(disks) if done)


def test_file_that_was_renamed_before_its_fsync_may_be_empty_torn_or_missing(
    tmp_path: Path,
) -> None:
    """The disk of these tests must be able to lose what was not synced."""
    old, file = b"a" * 2000, tmp_path / "file"
    file.write_bytes(old)
    with Recorder(tmp_path) as recorder:
        with open(tmp_path / "temporary", "xb") as temporary:
            temporary.write(b"b" * 2000)
        (tmp_path / "temporary").replace(file)
    disks = disks_after_power_failure(recorder, SUBSETS, TORN, Random(0))
    found = {disk.contents()["./file"] for disk, _ in disks}
    assert {old, b"b" * 2000, b""} < found
    assert any(content and set(content) > {0, ord("b")} for content in found)
