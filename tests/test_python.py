"""The package from Python: `import randlabels`, kept weights, and the notebook."""

from __future__ import annotations

import base64
import copy
import doctest
import json
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from nbclient import NotebookClient
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import CIFAR10, ImageFolder

import randlabels
from analysis.collect import collect
from randlabels import experiment
from randlabels.config import parse
from randlabels.door import labels, results
from randlabels.machine import stopping
from randlabels.store import checkpoint

from .conftest import BASIC, TINY, Cli, Hostile, only_run

DIGITS = parse({"dataset": {"name": "digits"}}).dataset


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of the caller, an empty folder."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def test_import_brings_no_library() -> None:
    code = "import sys, randlabels; assert 'sweep' in dir(randlabels); "
    code += "print({'torch', 'numpy', 'pandas', 'hydra', 'typing'} & sys.modules.keys())"
    command = [sys.executable, "-S", "-c", code]
    root = Path(randlabels.__file__).parent.parent
    assert subprocess.check_output(command, cwd=root, text=True) == "set()\n"


@pytest.mark.parametrize("module", [labels, results])
def test_examples_in_docstrings_are_true(module: Any) -> None:
    tests = doctest.DocTestFinder().find(module, globs={"randlabels": randlabels})
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in sorted(tests, key=lambda test: test.lineno or 0):
        runner.run(test)
    assert runner.tries >= 2 and runner.failures == 0


# corrupt


@pytest.mark.parametrize("kind", ["uniform", "uniform_exclusive", "pair_flip", "instance"])
def test_labels_equal_those_of_a_run(kind: str) -> None:
    tree = {"dataset": {"name": "digits"}, "corrupt": 0.37, "corruption": {"name": kind, "seed": 7}}
    train = experiment.assemble(parse(tree)).train
    images = train.images if kind == "instance" else None
    given = randlabels.corrupt(train.true, kind, 0.37, seed=7, images=images)
    assert given.dtype == np.int64 and (given != train.true.numpy()).any()
    np.testing.assert_array_equal(given, train.labels)


def test_real_cifar10_equals_a_run_and_the_original_formula(real_data: Path) -> None:
    for part in ("train", "test"):
        clean = CIFAR10(str(real_data), train=part == "train")
        noisy = randlabels.corrupt(clean, "uniform", 0.37)
        rng = np.random.RandomState(12345)
        expected = np.array(clean.targets)
        mask = rng.rand(len(expected)) <= 0.37
        expected[mask] = rng.choice(10, mask.sum())
        assert noisy.targets == expected.tolist()
        run = experiment.assemble(parse({"corrupt": 0.37}))
        np.testing.assert_array_equal(noisy.targets, getattr(run, part).labels)
        tree = {"corrupt": 0.37, "corruption": {"name": "instance"}}
        if part == "test":  # whose draws differ from those of the training images
            noisy = randlabels.corrupt(clean, "instance", 0.37)
            run = experiment.assemble(parse(tree))
            np.testing.assert_array_equal(noisy.targets, run.test.labels)
        noisy = randlabels.corrupt(clean, "asymmetric", 1.0)
        assert noisy.targets[clean.targets.index(9)] == 1  # truck to automobile


@pytest.mark.parametrize(
    ("field", "stored"),
    [
        ("targets", [0, 1, 2, 1] * 25),
        ("targets", torch.tensor([0, 1, 2, 1] * 25)),
        ("labels", np.array([0, 1, 2, 1] * 25, np.uint8)),
    ],
)
def test_data_set_keeps_its_type_and_the_original_its_labels(field: str, stored: Any) -> None:
    class Arrays(torch.utils.data.Dataset):
        classes = "abcd"

        def __getitem__(self, index: int) -> Any:
            return index, getattr(self, field)[index]

    clean = Arrays()
    setattr(clean, field, stored)
    true = np.asarray(stored).tolist()
    noisy = randlabels.corrupt(clean, "uniform", 0.5)
    given = getattr(noisy, field)
    assert type(given) is type(stored) and getattr(given, "dtype", None) == getattr(
        stored, "dtype", None
    )
    expected = randlabels.corrupt(true, "uniform", 0.5, classes=4)
    np.testing.assert_array_equal(given, expected)
    assert (noisy.true_targets == true).all() and 3 in expected
    assert getattr(clean, field) is stored and np.asarray(stored).tolist() == true
    assert Subset(noisy, [5])[0] == (5, expected[5])


def test_class_folders_give_the_corrupted_labels_in_a_loader(folder: Path) -> None:
    for index in range(12):
        file = folder / f"{index % 3}" / f"{index}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2)).save(file)
    clean = ImageFolder(str(folder), transform=np.array)
    noisy = randlabels.corrupt(clean, "pair_flip", 1.0)
    assert clean.targets == [label for _, label in clean.samples] == [0] * 4 + [1] * 4 + [2] * 4
    in_worker = pickle.loads(pickle.dumps(noisy))  # as spawned workers get it
    ((_, given),) = DataLoader(in_worker, 12)
    assert given.tolist() == noisy.targets == [1] * 4 + [2] * 4 + [0] * 4
    assert in_worker.true_targets.tolist() == clean.targets


@pytest.mark.parametrize(
    ("arguments", "keys", "sentence"),
    [
        (([0, 1], "lazy"), {}, "kind=lazy is unknown; use asymmetric"),
        (([0, 1], "shuffled_pixels"), {}, "kind=shuffled_pixels alters images"),
        (([0, 1], "instance"), {}, "kind=instance needs the images; add images="),
        (([0, 1], "uniform", 1.5), {}, "p=1.5 must be between 0 and 1"),
        (([0.0, 1.0],), {}, "labels must be integers of shape"),
        (([[0, 1]],), {}, "labels must be integers of shape"),
        (([0, 5],), {"classes": 3}, "labels must be 0 to 2 for 3 classes"),
        (([0, 1],), {"images": np.zeros((3, 1, 2, 2), np.uint8)}, "one for each image"),
        (([0, 1],), {"images": np.zeros((2, 8, 8, 3), np.uint8)}, "give (N, C, H, W)"),
        (([0, 1],), {"std": 0.1}, "corruption.std is an unknown key"),
        (([0, 1],), {"seed": -1}, "corruption.seed=-1 must be"),
        (([0, 1], "asymmetric"), {}, "use dataset=cifar10"),
        ((Subset([0], [0]),), {}, "must have targets or labels"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(
    arguments: Any, keys: Any, sentence: str
) -> None:
    with pytest.raises(ValueError) as error:
        randlabels.corrupt(*arguments, **keys)
    assert sentence in str(error.value) and "\n" not in str(error.value)


# load, runs, epochs


def accuracy(run: randlabels.Run, epoch: int | None = None) -> float:
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
    assert accuracy(run) == run.metrics["test_acc"].iloc[-1] > 0.15
    assert accuracy(run, 1) == run.metrics["test_acc"].iloc[1]
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


# sweep


def test_sweep_equals_the_command_and_leaves_the_process_as_it_was(cli: Cli) -> None:
    cli("-m", *TINY, BASIC, "corrupt=0.0,0.5", "seed=range(2)", "name=command")
    argv, threads = sys.argv[:], torch.get_num_threads()
    sys.argv[:] = ["notebook", "--nonsense"]
    try:
        table = randlabels.sweep(
            *TINY, BASIC, corrupt=np.array([0.0, 0.5]), seed=range(2), name="x"
        )
    finally:
        sys.argv[:] = argv
    assert not GlobalHydra.instance().is_initialized() and torch.get_num_threads() == threads
    measured = ["run_id", "state", "corrupt", "seed", "final_train_loss", "final_test_acc"]
    pd.testing.assert_frame_equal(table[measured], randlabels.runs("runs/command")[measured])
    again = randlabels.sweep(*TINY, "model.hidden=[8]", BASIC, corrupt=0.5, name="x")
    pd.testing.assert_frame_equal(again, table)  # of all runs in the folder


def test_failure_in_a_run_is_its_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("randlabels.fit.start", fail)
    table = randlabels.sweep(*TINY, BASIC, seed=[0, 1])
    assert table["state"].tolist() == ["failed", "failed"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"corrupt": [0.5, 1.5]}, "corrupt=1.5 must be between 0 and 1"),
        ({"model": "lenett"}, "model=lenett is unknown; use alexnet"),
        ({"epoch": 3}, "epoch is an unknown key; did you mean epochs?"),
        ({"keep": [[1000]]}, "keep=[1000] must list epochs from -1"),
    ],
)
def test_bad_config_raises_the_sentence_of_the_command(
    folder: Path, keys: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError) as error:
        randlabels.sweep(*TINY, **keys)
    assert sentence in str(error.value) and not (folder / "runs").exists()


def test_ctrl_c_during_a_sweep_is_a_keyboard_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stopping.Watch, "__call__", lambda watch: signal.raise_signal(signal.SIGINT))
        randlabels.sweep(*TINY, BASIC, seed=[0, 1])
    assert randlabels.sweep(*TINY, BASIC, seed=[0, 1])["state"].tolist() == ["done", "done"]


# docs/python.md and notebooks/memorisation.ipynb


def test_code_on_the_page_runs(
    folder: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "data").symlink_to(real_data.resolve())
    shortened = partial(results.sweep, BASIC, "dataset.train_size=64")
    monkeypatch.setattr(randlabels, "sweep", shortened, raising=False)
    page = (NOTEBOOK.parent.parent / "docs" / "python.md").read_text()
    assert len(page.splitlines()) <= 70
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block, names)
    assert names["wrong"].mean() == pytest.approx(0.36, abs=0.01) and len(names["logits"]) == 355


NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "memorisation.ipynb"


def figures(notebook: Any) -> list[bytes]:
    """Return the PNG files among the outputs of a notebook."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [output["data"] for output in outputs if output.output_type != "stream"]
    texts = [data["image/png"] for data in shown if "image/png" in data]
    return [base64.b64decode(text) for text in texts]


@pytest.mark.slow
def test_notebook_runs_from_an_empty_folder_and_is_committed_with_its_outputs(folder: Path) -> None:
    committed = nbformat.read(NOTEBOOK, as_version=4)
    (figure,) = figures(committed)
    assert len(figure) <= 40_000
    executed = copy.deepcopy(committed)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs = []
    NotebookClient(executed, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()
    assert len(figures(executed)) == 1
    counts = [len(cell.outputs) for cell in code]
    assert counts == [len(c.outputs) for c in committed.cells if c.cell_type == "code"]
    table = code[-1].outputs[0]["data"]["text/plain"].split()
    assert table[-3:] == ["59", "0.000", "1.000"]  # all wrong labels are memorised


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
