"""`randlabels.load`, `runs` and `epochs`: networks, splits and tables of runs; kept weights."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import randlabels
from analysis.collect import collect
from randlabels import experiment
from randlabels.config import parse
from randlabels.machine import stopping
from randlabels.store import checkpoint

from .conftest import TINY, Cli, Hostile, only_run

DIGITS = parse({"dataset": {"name": "digits"}}).dataset


def accuracy_on_test(run: randlabels.Run, epoch: int | None = None) -> float:
    """Return the share of test images that the run's network classifies right."""
    with torch.no_grad():
        predicted = run.model(epoch)(run.test.images).argmax(1)
    return (predicted == run.test.true).double().mean().item()


@pytest.mark.parametrize("model", [["model=mlp"], ["model=wrn", "model.depth=10"]])
def test_loaded_network_reproduces_the_records(cli: Cli, folder: Path, model: list[str]) -> None:
    digits = ["dataset=digits", "dataset.train_size=256", "batch_size=32", "corrupt=0.4"]
    assert cli(*digits, *model, "epochs=4", "keep=[-1,1]").code == 0
    run = randlabels.load(only_run(folder))
    assert (run.state, run.config["corrupt"], run.kept) == ("done", 0.4, [-1, 1])
    assert run.metrics["epoch"].tolist() == [0, 1, 2, 3]
    assert accuracy_on_test(run) == run.metrics["test_acc"].iloc[-1] > 0.15
    assert accuracy_on_test(run, 1) == run.metrics["test_acc"].iloc[1]
    initial = experiment.build_model(run._typed, experiment.load(DIGITS)).state_dict()
    for name, tensor in run.model(-1).model.state_dict().items():
        assert torch.equal(tensor, initial[name])
    assert not run.model().training and run.train.images.dtype == torch.uint8
    assert run.train.changed.double().mean().item() == pytest.approx(0.36, abs=0.1)


def test_unusable_folders_are_refused_in_one_sentence(cli: Cli, folder: Path) -> None:
    cli(*TINY, "keep=[0]")
    path = only_run(folder)
    run = randlabels.load(path)

    def refusal(act: Any) -> str:
        with pytest.raises(ValueError) as error:
            act()
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "must be the folder of a run" in refusal(lambda: randlabels.load(folder))
    assert "epoch=1 must be one that" in refusal(lambda: run.model(1))
    whole = run._run.checkpoint.read_bytes()
    run._run.checkpoint.write_bytes(whole[:-100] + bytes(100))
    assert "is damaged" in refusal(run.model)
    checkpoint.save(run._run.weights(0), {"model": Hostile(folder / "hacked")})
    assert "cannot be read as a checkpoint" in refusal(lambda: run.model(0))
    assert not (folder / "hacked").exists()
    run._run.checkpoint.unlink()
    assert "must exist" in refusal(run.model)
    moved = path.rename(folder / "elsewhere")
    assert "must be named" in refusal(randlabels.load(moved).model)
    (moved / "config.yaml").write_text("- a list\n")
    assert "must be the folder of a run" in refusal(lambda: randlabels.load(moved))
    with pytest.raises(FileNotFoundError, match="must be a folder"):
        randlabels.runs(folder / "nowhere")


def test_missing_or_other_data_are_refused(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli(*TINY)
    path = only_run(folder)
    environment = json.loads((path / "environment.json").read_text())
    (path / "environment.json").write_text(json.dumps({**environment, "data_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="computed on other data.*; restore the data"):
        _ = randlabels.load(path).train
    config = parse({"dataset": {"root": str(folder)}, "out": str(folder / "runs")})
    config.run.path.mkdir(parents=True)
    config.run.config.write_text(json.dumps(config.tree()))
    with pytest.raises(ValueError, match="cifar10 in .* is missing"):
        _ = randlabels.load(config.run.path).train


def test_exact_fit_has_splits_and_no_weights(cli: Cli, folder: Path) -> None:
    cli("dataset=digits", "model=kernel", "dataset.train_size=64")
    run = randlabels.load(only_run(folder))
    assert len(run.train.labels) == 64 and run.kept == [] and len(run.metrics) == 1
    with pytest.raises(ValueError, match="an exact fit has no weights"):
        run.model()


def test_tables_have_the_columns_and_values_of_the_files(sweep: Path) -> None:
    collect(sweep)
    for name, table in (("runs", randlabels.runs(sweep)), ("epochs", randlabels.epochs(sweep))):
        written = pd.read_csv(sweep / "summary" / f"{name}.csv")
        read = pd.read_csv(StringIO(table.to_csv(index=False)))
        pd.testing.assert_frame_equal(read, written, check_dtype=False)


# keep


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 3, 7])
def test_resumed_run_keeps_the_same_files(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    keys = [*TINY, "epochs=3", "batch_size=32", "keep=[-1,0,1]"]
    cli(*keys, "name=whole")
    calls = iter(range(1, call))

    def stop(watch: stopping.Watch) -> None:
        if next(calls, None) is None:
            raise stopping.Interrupted("a test")

    with monkeypatch.context() as patch:
        patch.setattr(stopping.Watch, "__call__", stop)
        cli(*keys)
    (stopped,) = folder.glob("runs/default/*/")
    assert randlabels.load(stopped).state == "interrupted"
    assert cli(*keys).code == 0
    files = sorted((stopped / "weights").iterdir())
    assert [file.name for file in files] == ["epoch-0000.pt", "epoch-0001.pt", "initial.pt"]
    for file in files:
        whole = folder / "runs" / "whole" / stopped.name / "weights" / file.name
        assert file.read_bytes() == whole.read_bytes()
        assert "model" in torch.load(file, weights_only=True)


def test_epochs_that_cannot_be_kept_are_refused(cli: Cli) -> None:
    cli(*TINY, "keep=[0]")
    assert "Already done" in cli(*TINY, "keep=[0]").out
    assert "keep=[-1, 1] must be ahead of" in cli(*TINY, "keep=[-1,0,1]").err
    assert cli(*TINY, "keep=[-1,0,1]", "force=true").code == 0
    assert "keep=[2] must list epochs" in cli(*TINY, "keep=[2]").err
    assert "keep=[0] has no meaning" in cli("model=kernel", "dataset=digits", "keep=[0]").err
