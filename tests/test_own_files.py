"""One's own data set, corruption or model: whatever is wrong with it ends as one sentence."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from hydra.errors import HydraException

from randlabels import registry
from randlabels.cli.compose import CONF
from randlabels.cli.errors import in_one_sentence
from randlabels.config import Config, parse
from randlabels.experiment import build_model, load, relabel
from randlabels.launchers.launch import check
from randlabels.solve import check_model

HEAD = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
import torch
from torch import nn
from randlabels.dataset import Data, Dataset, Split
from randlabels.model.dropout import Dropout
"""
DIGITS = {"dataset": {"name": "digits"}}

Own = Callable[[str, str], None]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    """Puts a file `own.py` among the options of a group, until the test ends."""
    undo = []

    def write(group: str, code: str) -> None:
        package = importlib.import_module(f"randlabels.{group}")
        (tmp_path / "own.py").write_text(HEAD + dedent(code))
        package.__path__.append(str(tmp_path))
        undo.append(lambda: package.__path__.remove(str(tmp_path)))
        undo.append(lambda: sys.modules.pop(f"{package.__name__}.own", None))
        undo.append(lambda: vars(package).pop("own", None))
        registry.options.cache_clear()

    yield write
    for action in undo:
        action()
    registry.options.cache_clear()


def network(own: Own, layers: str, build: str = "return nn.Sequential({})") -> Config:
    """A run on digits, (1, 8, 8) with 10 classes, of a model that builds `layers` so."""
    own(
        "model",
        f"""
        @dataclass
        class Own:
            name: ClassVar[str] = "own"
            lr: float | None = 0.1

            def build(self, image, classes, rng):
                {build.format(layers)}
        """,
    )
    return parse({**DIGITS, "model": {"name": "own"}})


def test_layers_with_torchs_own_initialisation_follow_the_runs_seed(own: Own) -> None:
    """... whatever drew from torch's global generator before, which goes on undisturbed."""
    config = network(own, "nn.Flatten(), nn.Linear(64, classes)")
    data = load(config.dataset)

    def weights(seed: int) -> torch.Tensor:
        config.seed = seed
        return build_model(config, data)[1].weight.detach()  # type: ignore[index]

    first = weights(0)
    torch.manual_seed(5)
    assert torch.equal(weights(0), first) and not torch.equal(weights(1), first)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ("nn.Flatten(), nn.Linear(64, 5)", r"makes \(2, 5\) of 2 images of shape \(1, 8, 8\); it "),
        ("nn.Linear(8, classes)", r"makes \(2, 1, 8, 10\) of 2 images"),
        (
            "nn.Flatten(), nn.Linear(3072, 10)",
            r"fails on images of shape \(1, 8, 8\): .*multiplied",
        ),
        ("nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)", "has torch's own dropout, which no run"),
        ("nn.Flatten(1, nope)", r"cannot be built: .*own.py, line \d+: NameError: name 'nope'"),
        ("nn.Linear(8, 10), nn.LSTM(10, 10)", r"fails on images of shape \(1, 8, 8\): .*own.py: "),
        (
            "nn.Flatten(), nn.LSTM(64, 10)",
            r"makes a tuple of 2 images .* must make \(2, 10\), a log",
        ),
    ],
)
def test_network_that_cannot_be_trained_is_refused_before_its_run(
    own: Own, layers: str, sentence: str
) -> None:
    config = network(own, layers)
    with pytest.raises(ValueError, match=f"^model=own {sentence}"):
        check_model(config, load(config.dataset))


def test_network_with_our_dropout_is_taken(own: Own) -> None:
    config = network(own, "nn.Flatten(), Dropout(0.5), nn.Linear(64, 10)")
    check_model(config, load(config.dataset))


@pytest.mark.parametrize(
    ("group", "body", "sentence"),
    [
        ("model", "lr: float | None = 0.1", "has no method build or solve; class Own must have "),
        ("model", "lr = 0.1", "has no key lr; class Own must have one, with its type"),
        ("model", "width: int\n    lr: float = 0.1", "has the key width without a default; give "),
        ("corruption", "seed: int = 0", "has no method relabel; class Own must have one"),
        (
            "corruption",
            "seed: int = 0\n    def relabel(self, part, prob): ...",
            "has no method transition; class Own must have one",
        ),
        ("dataset", "def load(self): ...", "has no key root; class Own must have one"),
        (
            "model",
            "lr: float = 0.1\n    width = 8\n    def build(self): ...",
            "has width = 8 without a type, which makes it no key; write width: int = 8, or ",
        ),
    ],
)
def test_class_that_lacks_something_is_named_with_it(
    own: Own, group: str, body: str, sentence: str
) -> None:
    own(group, f'@dataclass\nclass Own:\n    name: ClassVar[str] = "own"\n    {body}\n')
    with pytest.raises(ValueError, match=f"^{group}=own {re.escape(sentence)}"):
        parse({group: {"name": "own"}})


def test_build_that_returns_no_module_is_named_with_what_it_returns(own: Own) -> None:
    config = network(own, "nn.Flatten(), nn.Linear(64, classes)", build="nn.Sequential({})")
    with pytest.raises(ValueError, match="^model=own builds None; build must return an nn.Module"):
        check_model(config, load(config.dataset))


def test_name_that_is_taken_is_refused_with_both_classes(own: Own) -> None:
    """Without that the later file would replace the other model under its name."""
    own("model", '@dataclass\nclass Own:\n    name: ClassVar[str] = "mlp"\n')
    with pytest.raises(
        ValueError, match=r"^model=mlp is class MLP in .*mlp.py and class Own in .*"
    ):
        parse(DIGITS)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("import nowhere", r"own.py, line \d+: ModuleNotFoundError: No module named 'nowhere'"),
        (
            "nn.Linea",
            r"own.py, line \d+: AttributeError: module 'torch.nn' has no attribute 'Linea'",
        ),
    ],
)
def test_file_that_cannot_be_imported_is_named_with_its_line(
    own: Own, line: str, sentence: str
) -> None:
    own("model", line)
    with pytest.raises(ValueError, match=sentence):
        parse(DIGITS)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (
            "part.labels / 2",
            r"returned float64 of shape \(1442,\) for the train part; relabel must ",
        ),
        (
            "part.labels + 1",
            "returned integers from 1 to 10 for the train part; relabel must return",
        ),
        ("part.labels - (part.name == 'test')", "returned integers from -1 to 8 for the test part"),
        ("None", r"returned object of shape \(\) for the train part; relabel must return 1442 int"),
        ("part.label", r"fails: .*own.py, line \d+: AttributeError: 'Part' object has no"),
    ],
)
def test_corruption_that_gives_no_labels_is_refused_before_any_run(
    own: Own, returned: str, sentence: str
) -> None:
    config = noise(own, f"return {returned}")
    with pytest.raises(ValueError, match=f"^corruption=own {sentence}"):
        check([config])


def test_labels_may_be_a_list_or_a_tensor(own: Own) -> None:
    config = noise(own, "return torch.tensor(part.labels) if part.name == 'test' else [3] * 1442")
    data = load(config.dataset)
    assert relabel(config, data, "train").tolist() == [3] * 1442
    assert torch.equal(relabel(config, data, "test"), data.test.labels)


def noise(own: Own, relabel: str) -> Config:
    """A run on digits of a corruption that relabels so."""
    own(
        "corruption",
        f"""
        @dataclass
        class Own:
            name: ClassVar[str] = "own"
            seed: int = 0

            def relabel(self, part, prob):
                {relabel}

            def transition(self, part, prob):
                return np.eye(part.classes)
        """,
    )
    return parse({**DIGITS, "model": {"name": "linear"}, "corruption": {"name": "own"}})


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
def test_data_of_another_form_are_refused_with_what_they_are(
    own: Own, images: str, labels: str, sentence: str
) -> None:
    own(
        "dataset",
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


def test_file_without_the_name_that_is_asked_for_is_told_from_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "HERE", tmp_path)
    file = tmp_path / "model" / "mine.py"
    file.parent.mkdir()
    file.write_text(f"{HEAD}@dataclass\nclass Mine:\n    lr = 0.1\n")
    mine = in_one_sentence(HydraException("Could not find 'model/mine'"))
    assert mine.startswith(f"model=mine is unknown: no class in {file} has the line name: ")
    other = in_one_sentence(HydraException("Could not find 'model/other'"))
    assert other.startswith("model=other is unknown; use alexnet, ")


def test_file_of_comments_must_name_its_option(tmp_path: Path) -> None:
    """Without the name it would be the group's default that runs, under the file's keys."""
    shutil.copytree(CONF, tmp_path / "conf", symlinks=True)
    models = tmp_path / "conf" / "model"
    (models / ".#mlp.yaml").symlink_to("an editor's lock")
    assert list(registry.without_file(tmp_path / "conf")) == []
    (models / "linear.yaml").write_text("lr: 0.05\n")
    with pytest.raises(ValueError, match="linear.yaml must have the line `name: linear`; add it"):
        list(registry.without_file(tmp_path / "conf"))


def test_underscore_files_hold_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(registry.HERE / "model", tmp_path / "model")
    monkeypatch.setattr(registry, "HERE", tmp_path)
    (tmp_path / "model" / "_draft.py").write_text('class Draft(:\n    name = "draft"\n')
    assert not list(registry.without_file(CONF))
    shutil.move(tmp_path / "models/_draft.py", tmp_path / "models/draft.py")
    with pytest.raises(ValueError, match="draft.py, line 1"):
        list(registry.without_file(CONF))
