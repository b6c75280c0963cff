"""Checkpoints that were damaged, replaced or made by somebody else."""

from __future__ import annotations

import json
import pickle
import random
import re
from pathlib import Path

import pytest
import torch

from randlabels.store import checkpoint
from randlabels.store.rundir import RunDir

from .conftest import TINY, Cli, Hostile, only_run, untimed_lines

STATE = {"config_hash": "a" * 64, "model": {"w": torch.arange(1000.0)}, "epoch": 3}


def test_every_bit_flip_and_truncation_is_detected(tmp_path: Path) -> None:
    """40 flips, of which torch itself loads nearly all: of 40 it loaded 40 when it was measured."""
    file = tmp_path / "checkpoint.pt"
    checkpoint.save(file, STATE)
    loaded = checkpoint.load(file, "a" * 64)
    assert loaded is not None and torch.equal(loaded["model"]["w"], STATE["model"]["w"])
    assert torch.equal(torch.load(file, weights_only=True)["model"]["w"], STATE["model"]["w"])
    whole, rng = file.read_bytes(), random.Random(0)
    for place in rng.sample(range(8 * len(whole)), 40):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        with pytest.raises(ValueError, match="is damaged"):
            checkpoint.load(file, "a" * 64)
    for end in [0, 1, *range(64, len(whole), 256), len(whole) - 1]:
        file.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="is damaged"):
            checkpoint.load(file, "a" * 64)


@pytest.mark.slow
def test_previous_checkpoint_is_kept_and_recovered_from(cli: Cli, tmp_path: Path) -> None:
    """The numbers are the same, no matter which of the two is damaged."""
    arguments = [*TINY, "epochs=5", "checkpoint_every=0"]
    assert cli(*arguments).code == 0
    run = RunDir(only_run(tmp_path))
    whole = untimed_lines(run.path)
    epochs = [torch.load(f, weights_only=True)["epoch"] for f in checkpoint_files(run)]
    assert epochs == [5, 5]  # the last epoch's, and the one of the end
    write_checkpoint(run, epoch=3, to=run.previous_checkpoint)
    run.done.unlink()
    flip_bit(run.checkpoint)
    again = cli(*arguments)
    assert again.code == 0 and untimed_lines(run.path) == whole
    assert "is damaged: its checksum is not that of its content; going back to the one" in again.out
    assert "Resuming after epoch 2." in again.out
    assert run.checkpoint.with_suffix(".damaged").exists()  # nothing is thrown away

    run.done.unlink()
    flip_bit(run.previous_checkpoint)
    again = cli(*arguments)
    assert again.code == 0 and untimed_lines(run.path) == whole and "is damaged" not in again.out

    run.done.unlink()
    flip_bit(run.checkpoint)
    flip_bit(run.previous_checkpoint)
    again = cli(*arguments)
    assert again.code == 0 and untimed_lines(run.path) == whole
    assert again.out.count("is damaged") == 2 and "starting from epoch 0" in again.out

    run.done.unlink()
    run.previous_checkpoint.unlink()
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-500])
    again = cli(*arguments)
    assert again.code == 0 and untimed_lines(run.path) == whole
    assert re.search("is damaged: .*; starting from epoch 0", again.out)


def checkpoint_files(run: RunDir) -> tuple[Path, Path]:
    return run.checkpoint, run.previous_checkpoint


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def write_checkpoint(run: RunDir, epoch: int, to: Path) -> None:
    """Write the checkpoint that the run has after `epoch` epochs, by stopping it there."""
    from randlabels import fit
    from randlabels.config import parse
    from randlabels.experiment import assemble
    from randlabels.machine.resources import Resources

    digits = {"name": "digits", "train_size": 64}
    config = parse({"dataset": digits, "model": {"name": "mlp", "hidden": [8]}, "epochs": 5})
    assert config.run_id == run.run_id
    resources = Resources("cpu", "fp32", torch.get_num_threads())
    state = fit.start(built := assemble(config), resources)
    for record in fit.sgd(built, state, resources):
        if record["epoch"] == epoch - 1:
            break
    saved = checkpoint.load(run.checkpoint, config.hash)
    assert saved is not None
    checkpoint.save(to, {**saved, **state.to_dict()})


def test_checkpoint_of_another_config_is_refused_with_both_hashes(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    checkpoint.save(file, STATE)
    with pytest.raises(ValueError, match=f"belongs to config {'a' * 64}, not {'b' * 64}"):
        checkpoint.load(file, "b" * 64)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["model", "optimizer"])
def test_checkpoint_of_another_program_fails_by_name_and_stays(
    key: str, cli: Cli, tmp_path: Path
) -> None:
    cli(*TINY)
    run = RunDir(only_run(tmp_path))
    hash_ = json.loads(run.done.read_text())["config_hash"]
    saved = checkpoint.load(run.checkpoint, hash_)
    assert saved is not None
    if key == "model":
        name, tensor = next(iter(saved["model"].items()))
        saved["model"][name] = tensor[:-1]
    else:
        saved["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(3)
    checkpoint.save(run.checkpoint, saved)
    run.done.unlink()
    before = run.checkpoint.read_bytes()
    outcome = cli(*TINY)
    assert outcome.code == 1 and run.state() == "failed"
    assert f"the checkpoint's {key} has " in outcome.out and "force=true" in outcome.out
    assert run.checkpoint.read_bytes() == before
    assert cli(*TINY, "force=true").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bare", "torch", "signed"])
def test_hostile_pickle_is_not_executed(kind: str, cli: Cli, tmp_path: Path) -> None:
    cli(*TINY)
    run = RunDir(only_run(tmp_path))
    whole = untimed_lines(run.path)
    run.done.unlink()
    for file in checkpoint_files(run):
        if kind == "bare":
            file.write_bytes(pickle.dumps(Hostile(tmp_path / "executed")))
        else:
            torch.save({"model": Hostile(tmp_path / "executed")}, file)
        if kind == "signed":  # an attacker can compute the checksum too
            content = file.read_bytes()
            file.write_bytes(content + checkpoint._digest(content))
    again = cli(*TINY)
    assert again.code == 0 and untimed_lines(run.path) == whole
    unreadable = "cannot be read as a checkpoint: Weights only load failed"
    wanted = unreadable if kind == "signed" else "is damaged"
    assert again.out.count(wanted) == 2
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_resumed_run_computes_as_it_began(cli: Cli, tmp_path: Path) -> None:
    """`threads=auto` is 1 in a sweep, else all cores. A resumed run keeps its first value."""
    cli("-m", "hydra/launcher=basic", *TINY)
    run = RunDir(only_run(tmp_path))
    run.done.unlink()
    assert cli(*TINY).code == 0
    assert json.loads(run.environment.read_text())["threads"] == 1
    saved = checkpoint.load(run.checkpoint, json.loads(run.done.read_text())["config_hash"])
    assert saved is not None
    checkpoint.save(run.checkpoint, {**saved, "device": "cuda"})
    run.done.unlink()
    outcome = cli(*TINY)
    assert outcome.code == 1 and "was begun on cuda and cannot continue on cpu" in outcome.out
