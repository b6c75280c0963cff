"""Label files of people's answers: what is read from them, and what is not executed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from randlabels.corruption.human import Human, read_labels
from randlabels.experiment import load, relabel

from .conftest import TINY, Cli, Hostile
from .noise import balanced, part


def publish(file: Path, labels: np.ndarray, **columns: np.ndarray) -> Path:
    """A file such as CIFAR-10N's: a torch pickle of a dictionary of int64 arrays."""
    torch.save({"clean_label": labels, **columns}, file)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """1,000 labels of ten classes, of which people took every fourth for the next class."""
    labels = balanced(1_000)
    taken = np.where(np.arange(1_000) % 4 == 0, (labels + 1) % 10, labels)
    return publish(tmp_path / "human.pt", labels, worse_label=taken, aggre_label=labels)


def test_corrupt_is_the_share_of_images_that_take_the_files_label(file: Path) -> None:
    whole = part(balanced(1_000))
    human = Human(path=str(file))
    taken = read_labels(file)["worse_label"]
    np.testing.assert_array_equal(human.relabel(whole, 1.0), taken)
    np.testing.assert_array_equal(human.relabel(whole, 0.0), whole.labels)
    mask = np.random.RandomState(12345).rand(1_000) <= 0.3
    expected = np.where(mask, taken, whole.labels)
    np.testing.assert_array_equal(human.relabel(whole, 0.3), expected)
    clean = Human(path=str(file), which="aggre_label")
    np.testing.assert_array_equal(clean.relabel(whole, 1.0), whole.labels)


def test_the_matrix_is_that_of_the_file(file: Path) -> None:
    whole = part(balanced(1_000))
    counts = np.zeros((10, 10))
    for true, given in zip(whole.labels, read_labels(file)["worse_label"], strict=True):
        counts[true, given] += 0.01
    stated = Human(path=str(file)).transition(whole, 0.4)
    np.testing.assert_allclose(stated, 0.6 * np.eye(10) + 0.4 * counts)


def test_test_labels_stay_true(file: Path) -> None:
    test = part(balanced(100), name="test")
    np.testing.assert_array_equal(Human(path=str(file)).relabel(test, 1.0), test.labels)


def as_numpy_1_wrote_it(file: Path) -> None:
    """Rename NumPy's module in the pickle, and keep its length."""
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"cnumpy._core.", b"cnumpy.core."))


def test_files_of_older_numpys_are_read(file: Path) -> None:
    before = read_labels(file)
    as_numpy_1_wrote_it(file)
    assert b"numpy.core.multiarray" in file.read_bytes()
    for key, column in read_labels(file).items():
        np.testing.assert_array_equal(column, before[key])


def test_a_hostile_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    torch.save({"clean_label": Hostile(made)}, tmp_path / "hostile.pt")
    with pytest.raises(ValueError, match="is no label file that is safe to read; get the publ"):
        read_labels(tmp_path / "hostile.pt")
    assert not made.exists()
    torch.load(tmp_path / "hostile.pt", weights_only=False)  # it would have been
    assert made.exists()


@pytest.mark.parametrize(
    ("which", "columns", "sentence"),
    [
        ("worst", {}, "corruption.which=worst is no column of .*; use worse_label, aggre_label$"),
        ("short", {"short": np.zeros(9, int)}, "which=short .* holds no 1,000 labels from 0 to 9"),
        ("wild", {"wild": np.full(1_000, 10)}, "which=wild .* holds no 1,000 labels from 0 to 9"),
        ("clean_label", {}, "corruption.which=clean_label is no column"),
    ],
)
def test_columns_that_are_none_are_refused(
    which: str, columns: dict, sentence: str, file: Path
) -> None:
    found = {k: v for k, v in read_labels(file).items() if k != "clean_label"}
    publish(file, balanced(1_000), **found, **columns)
    with pytest.raises(ValueError, match=sentence):
        Human(path=str(file), which=which).relabel(part(balanced(1_000)), 1.0)


def test_files_that_are_none_of_this_data_set_are_refused(file: Path, tmp_path: Path) -> None:
    for labels in (balanced(999), np.roll(balanced(1_000), 1)):
        with pytest.raises(ValueError, match="has other clean labels than cifar10; use the datas"):
            Human(path=str(file)).relabel(part(labels), 1.0)
    with pytest.raises(ValueError, match="corruption=human needs the label file .*; set "):
        Human().relabel(part(balanced(10)), 1.0)
    with pytest.raises(ValueError, match="cannot be read .No such file or directory.; set it to"):
        read_labels(tmp_path / "nosuch.pt")
    (tmp_path / "text.pt").write_text("0 1 2")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("text.pt", "list.pt"):
        with pytest.raises(ValueError, match="get the published one"):
            read_labels(tmp_path / name)


def test_a_run_takes_the_files_labels_and_its_path_is_no_part_of_its_id(
    cli: Cli, tmp_path: Path
) -> None:
    from randlabels.config import parse

    human = {"name": "human", "path": str(tmp_path / "human.pt")}
    tree = {"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "corrupt": 1.0}
    config = parse({**tree, "corruption": human})
    data = load(config.dataset)
    taken = (data.train.labels.numpy() + 1) % 10
    publish(tmp_path / "human.pt", data.train.labels.numpy(), worse_label=taken)
    np.testing.assert_array_equal(relabel(config, data, "train").numpy(), taken)
    assert config.run_id == parse({**tree, "corruption": {"name": "human"}}).run_id
    outcome = cli(*TINY, "corruption=human", "corrupt=1.0", "corruption.path=human.pt")
    assert outcome.code == 0
    refused = cli(*TINY, "corruption=human", "corrupt=0.5")
    assert refused.code == 1 and refused.err.startswith("Error: corruption=human needs the label ")
