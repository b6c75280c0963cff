"""Options of own files: named once by `imports`; mistakes are reported before a run."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from torch import nn

import randlabels.model
from analysis.collect import collect, warnings
from randlabels import registry
from randlabels.checks import check, check_model
from randlabels.config import Config, parse
from randlabels.corruption.base import frequencies
from randlabels.experiment import build_model, corrupt_labels, load, source_of

from .conftest import BASIC, Cli

HEAD = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
import torch
from torch import nn
from randlabels.corruption import Corruption
from randlabels.corruption.base import Mixture
from randlabels.dataset import Data, Dataset, Split
from randlabels.model import Model
from randlabels.model.dropout import Dropout
"""
DIGITS = {"dataset": {"name": "digits"}}
SHORT = ["dataset=digits", "dataset.train_size=64", "epochs=1"]

Write = Callable[[str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a file `own.py` and name it by RANDLABELS_IMPORTS until the test ends.

    It is imported as by a new process.
    """
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("RANDLABELS_IMPORTS", str(tmp_path / "own.py"))

    def save(code: str) -> None:
        monkeypatch.setattr(registry, "_imported", {})
        monkeypatch.setattr(registry, "_code_sha256", {})
        sys.modules.pop("own", None)
        (tmp_path / "own.py").write_text(HEAD + dedent(code))

    yield save
    sys.modules.pop("own", None)
    registry.options.cache_clear()


def network(write: Write, layers: str, returned: str = "") -> Config:
    """Return a run on digits, (1, 8, 8) with 10 classes, of a model of these layers."""
    write(
        f"""
        @dataclass
        class Own(Model):
            name: ClassVar[str] = "own"
            lr: float | None = 0.1

            def build(self, image, classes, rng):
                return {returned}nn.Sequential({layers})
        """,
    )
    return parse({**DIGITS, "model": {"name": "own"}})


def noise(write: Write, relabel: str) -> Config:
    """Return a run on digits of a corruption that relabels in this way."""
    write(
        f"""
        @dataclass
        class Own(Corruption):
            name: ClassVar[str] = "own"

            def relabel(self, source, corrupt):
                {relabel}

            def transition(self, source, corrupt):
                return np.eye(source.classes)
        """,
    )
    return parse({**DIGITS, "model": {"name": "linear"}, "corruption": {"name": "own"}})


def test_layers_with_torchs_initialisation_follow_the_runs_seed(write: Write) -> None:
    """... and torch's global generator is left as it was."""
    config = network(write, "nn.Flatten(), nn.Linear(64, classes)")
    data = load(config.dataset)

    def weights(seed: int) -> torch.Tensor:
        config.seed = seed
        model = build_model(config, data)
        assert isinstance(model, nn.Sequential)
        return next(model.parameters()).detach()

    first = weights(0)
    torch.manual_seed(5)
    assert torch.equal(weights(0), first) and not torch.equal(weights(1), first)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ("nn.Flatten(), nn.Linear(64, 5)", r"returns \(2, 5\) for 2 images of shape \(1, 8, 8\); "),
        ("nn.Linear(8, classes)", r"returns \(2, 1, 8, 10\) for 2 images"),
        ("nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)", "has torch's dropout, which a resumed"),
        ("nn.Flatten(), nn.LSTM(64, 10)", r"returns a tuple for 2 images .* return \(2, 10\), a "),
    ],
)
def test_network_that_cannot_be_trained_is_refused_before_its_run(
    write: Write, layers: str, sentence: str
) -> None:
    config = network(write, layers)
    with pytest.raises(ValueError, match=f"^model=own {sentence}"):
        check_model(config, load(config.dataset))


def test_network_with_our_dropout_is_accepted(write: Write) -> None:
    config = network(write, "nn.Flatten(), Dropout(0.5), nn.Linear(64, 10)")
    check_model(config, load(config.dataset))


def test_build_that_returns_no_module_is_refused(write: Write) -> None:
    config = network(write, "nn.Flatten()", returned="None and ")
    with pytest.raises(ValueError, match="model=own builds None; build must return an nn.Module"):
        check([config])


def test_mistake_ends_the_command_with_a_traceback(write: Write, cli: Cli, tmp_path: Path) -> None:
    config = network(write, "nn.Flatten(1, nope)")
    with pytest.raises(NameError, match="nope"):
        cli("dataset=digits", "model=linear", f"model.name={config.model.name}", "~model.bias")
    assert not (tmp_path / "runs").exists()


def test_class_without_a_method_of_its_base_is_a_type_error(write: Write) -> None:
    write('@dataclass\nclass Own(Model):\n    name: ClassVar[str] = "own"\n')
    with pytest.raises(TypeError, match="abstract class Own .*build"):
        parse({"model": {"name": "own"}})


def test_class_that_is_no_dataclass_is_a_type_error(write: Write) -> None:
    write('class Own(Model):\n    name: ClassVar[str] = "own"\n')
    with pytest.raises(TypeError, match=r"class Own in .*own.py must be a dataclass; put @datac"):
        parse(DIGITS)


def test_changed_file_is_another_run_and_the_tables_warn_of_both(
    write: Write, cli: Cli, tmp_path: Path
) -> None:
    layers = "nn.Flatten(), nn.Linear(64, 10)"
    first = network(write, layers)
    tree, id_of_first = first.tree(), first.run_id
    assert parse(tree) == first
    assert cli("model=own", *SHORT).code == 0
    second = network(write, layers + ", nn.Identity()")
    assert second.tree()["model"].keys() == tree["model"].keys() and second.run_id != id_of_first
    with pytest.raises(ValueError, match=f"^model.code_sha256={'.' * 64} must be that of the file"):
        parse(tree)
    assert cli("-m", "model=own,linear", *SHORT, BASIC).code == 0
    found, _ = collect(tmp_path / "runs")
    assert len(found.runs) == 3 and "model.code_sha256" in found.swept
    sentence = "the tables mix 2 versions of the file of model=own; see model.code_sha256"
    assert [s for s in warnings(found) if "versions" in s] == [sentence]


def test_model_without_a_learning_rate_asks_for_one(write: Write) -> None:
    code = "    def build(self, image, classes, rng): ...\n"
    write(f'@dataclass\nclass Own(Model):\n    name: ClassVar[str] = "own"\n{code}')
    with pytest.raises(ValueError, match="model=own, which has no learning rate; set optimizer.lr"):
        parse({"model": {"name": "own"}})
    assert parse({"model": {"name": "own"}, "optimizer": {"lr": 0.5}}).optimizer.lr == 0.5


@pytest.mark.parametrize("name", ["mlp", "own"])
def test_name_of_two_classes_is_refused_in_one_sentence(write: Write, cli: Cli, name: str) -> None:
    code = '@dataclass\nclass {}(Model):\n    name: ClassVar[str] = "{}"\n'
    write(code.format("First", "own") + code.format("Second", name))
    first = r"MLP in \S+mlp.py" if name == "mlp" else r"First in \S+own.py"
    outcome = cli("model=own", "dataset=digits")
    assert outcome.code == 1 and re.fullmatch(
        rf"Error: model={name} is both class {first} and class Second in \S+own.py; give one "
        "another name\n",
        outcome.err,
    )


@pytest.mark.parametrize("line", ["import nowhere", "nn.Linea", "class Draft(:", "int('x')"])
def test_file_that_cannot_be_imported_is_a_traceback(write: Write, cli: Cli, line: str) -> None:
    write(line)
    with pytest.raises(ImportError, match="own.py cannot be imported: ") as error:
        cli("model=mlp")
    assert error.value.__cause__ is not None


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("[nowhere.py]", "imports=/.*/nowhere.py must be an existing file .py; "),
        ("[notes.txt]", "imports=/.*/notes.txt must be an existing file .py; "),
        ("[json.py]", "imports=/.*/json.py has the name of the Python module json; rename the "),
        ("5", r"imports=5 must be Python files; use imports=\[my_parts.py\]"),
        ("a.py,b.py", "imports=a.py,b.py must be one list; use imports="),
    ],
)
def test_imports_that_are_not_own_files_are_refused(
    value: str, sentence: str, write: Write, cli: Cli, tmp_path: Path
) -> None:
    for name in ("notes.txt", "json.py"):
        (tmp_path / name).touch()
    outcome = cli("-m", f"imports={value}", "model=mlp")
    assert outcome.code == 1 and re.match(f"Error: {sentence}", outcome.err.replace("*", ""))


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("source.labels / 2", r"returned float64 of shape \(1442,\) for the train split; relabel "),
        ("source.labels + 1", "returned integers from 1 to 10 for the train split; relabel must "),
        ("source.labels - (source.split == 'test')", "returned integers from -1 to 8 for the test"),
        ("None", r"returned object of shape \(\) for the train split; relabel must return 1442 "),
    ],
)
def test_corruption_that_returns_no_labels_is_refused_before_any_run(
    write: Write, returned: str, sentence: str
) -> None:
    config = noise(write, f"return {returned}")
    with pytest.raises(ValueError, match=f"^corruption=own {sentence}"):
        check([config])


def test_labels_may_be_a_list_or_a_tensor(write: Write) -> None:
    config = noise(
        write, "return torch.tensor(source.labels) if source.split == 'test' else [3] * 1442"
    )
    data = load(config.dataset)
    assert corrupt_labels(config, data, "train").tolist() == [3] * 1442
    assert torch.equal(corrupt_labels(config, data, "test"), data.test.labels)


def test_labels_are_drawn_once_by_a_process(write: Write) -> None:
    config = noise(write, "print('drawn', source.split); return source.labels")
    data = load(config.dataset)
    first = corrupt_labels(config, data, "train")
    config.seed = 1
    check([config])
    assert corrupt_labels(config, data, "train") is first


def test_mixture_that_draws_with_the_given_generator_is_unbiased(write: Write) -> None:
    write(
        """
        @dataclass
        class Own(Mixture):
            name: ClassVar[str] = "own"

            def targets(self, source, rng):
                return rng.randint(source.classes, size=len(source.labels))

            def target_matrix(self, source):
                return np.full((source.classes, source.classes), 1 / source.classes)
        """,
    )
    config = parse({**DIGITS, "corruption": {"name": "own"}, "corrupt": 0.4})
    data = load(config.dataset)
    source = source_of(config, data, "train")
    labels = corrupt_labels(config, data, "train").numpy()
    changed = labels[labels != source.labels]
    shares = np.bincount(changed, minlength=10) / len(changed)
    assert np.abs(shares - 0.1).max() < 4.5 * np.sqrt(0.09 / len(changed))
    drawn = frequencies(source.labels, labels, 10)
    within = 4.5 * np.sqrt(0.25 / 140)
    assert np.abs(drawn - config.corruption.transition(source, 0.4)).max() < within


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        ("x[:, 0]", "y", r"images must be a tensor .*; these are torch.uint8 \(6, 5, 5\)"),
        ("x / 255", "y", r"images must be a tensor .*; these are torch.float32 \(6, 3, 5, 5\)"),
        ("x.numpy()", "y", r"images must be a tensor .*; these are uint8 \(6, 3, 5, 5\)"),
        ("x.permute(0, 2, 3, 1)", "y", r"images \(6, 5, 5, 3\) seem to be \(N, H, W, C\); give "),
        ("x", "y.int()", r"labels must be a tensor \(6,\) of torch.int64, .* torch.int32 \(6,\)"),
        ("x", "y[:5]", r"labels must be a tensor \(6,\) .* torch.int64 \(5,\)"),
        ("x", "y[:, None]", r"labels must be a tensor \(6,\) .* torch.int64 \(6, 1\)"),
        ("x", "y + 1", "labels must be 0 to 2 for 3 classes; these are 1 to 3"),
        ("x", "y - 1", "labels must be 0 to 2 for 3 classes; these are -1 to 1"),
    ],
)
def test_data_of_another_form_are_refused_with_their_form(
    write: Write, images: str, labels: str, sentence: str
) -> None:
    write(
        f"""
        @dataclass
        class Own(Dataset):
            name: ClassVar[str] = "own"

            def load(self):
                x, y = torch.zeros(6, 3, 5, 5, dtype=torch.uint8), torch.arange(6) % 3
                good = Split(x, y)
                return Data(good, Split({images}, {labels}), 3)
        """,
    )
    with pytest.raises(ValueError, match=f"^{sentence}"):
        load(parse({"dataset": {"name": "own"}}).dataset)


def test_option_of_an_own_file_needs_no_file_of_keys(write: Write) -> None:
    network(write, "nn.Flatten(), nn.Linear(64, 10)")
    assert list(registry.imported_options()) == [("model", "own", {"name": "own", "lr": 0.1})]


def test_file_in_the_package_is_found_and_drafts_are_not(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network(write, "nn.Flatten(), nn.Linear(64, 10)")
    (tmp_path / "package").mkdir()
    for name in ("_draft.py", "own.py"):
        shutil.copy(tmp_path / "own.py", tmp_path / "package" / name)
    monkeypatch.setattr(randlabels.model, "__path__", [str(tmp_path / "package")])
    monkeypatch.setattr(registry, "_code_sha256", {})
    registry.options.cache_clear()
    assert list(registry.options("model")) == ["own"]
    del sys.modules["randlabels.model.own"], vars(randlabels.model)["own"]
