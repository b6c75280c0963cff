"""Labels: drawn by the original formula, a matrix or an exact count; what a run does with them."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from randlabels.config import parse
from randlabels.corruption import Source
from randlabels.corruption.matrix import Matrix
from randlabels.corruption.uniform import Uniform, UniformCount
from randlabels.experiment import assemble

from .sources import balanced, make_source


def original_labels(
    labels: np.ndarray, corrupt: float, classes: int, seed: int = 12345
) -> np.ndarray:
    """cifar10_data.py of the original code, with its global generator."""
    labels = np.array(labels)
    if corrupt > 0:
        np.random.seed(seed)
        mask = np.random.rand(len(labels)) <= corrupt
        random_labels = np.random.choice(classes, mask.sum())
        labels[mask] = random_labels
    return labels


@pytest.mark.parametrize("size", [50_000, 10_000], ids=["train", "test"])
@pytest.mark.parametrize("corrupt", [0.0, 1e-9, 0.1, 0.2, 0.5, 0.8, 1.0])
def test_labels_equal_the_original_codes_bit_for_bit(corrupt: float, size: int) -> None:
    labels = np.random.RandomState(0).randint(0, 10, size)
    relabelled = Uniform().relabel(make_source(labels), corrupt)
    assert relabelled.dtype == np.int64
    np.testing.assert_array_equal(relabelled, original_labels(labels, corrupt, 10))


@settings(deadline=None, max_examples=50)
@given(
    corrupt=st.floats(0, 1),
    classes=st.integers(2, 100),
    size=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_seed_and_class_count_equals_the_formula(
    corrupt: float, classes: int, size: int, seed: int
) -> None:
    labels = np.arange(size) % classes
    before = labels.copy()
    relabelled = Uniform(seed=seed).relabel(make_source(labels, classes), corrupt)
    np.testing.assert_array_equal(relabelled, original_labels(labels, corrupt, classes, seed))
    np.testing.assert_array_equal(labels, before)


def mlp_on_digits(**keys: object) -> dict[str, object]:
    return {"dataset": {"name": "digits"}, "model": {"name": "mlp"}, **keys}


def test_labels_depend_on_neither_run_seed_nor_model_nor_size() -> None:
    whole = assemble(parse(mlp_on_digits(corrupt=0.5)))
    other = assemble(parse(mlp_on_digits(corrupt=0.5, seed=7, model={"name": "linear"})))
    assert other.corruption == whole.corruption
    cut = assemble(parse(mlp_on_digits(corrupt=0.5, dataset={"name": "digits", "train_size": 100})))
    assert cut.corruption["sha256"] == whole.corruption["sha256"]
    assert cut.corruption["test_sha256"] == whole.corruption["test_sha256"]
    assert cut.corruption["train_sha256"] != whole.corruption["train_sha256"]


def test_record_states_the_share_changed_and_the_labels_checksums() -> None:
    experiment = assemble(parse(mlp_on_digits(corrupt=0.5)))
    labels, true = experiment.train.labels.numpy(), experiment.train.true.numpy()
    np.testing.assert_array_equal(labels, original_labels(true, 0.5, 10))
    np.testing.assert_array_equal(
        experiment.test.labels.numpy(), original_labels(experiment.test.true.numpy(), 0.5, 10)
    )
    assert experiment.corruption == {
        "kind": "uniform",
        "prob": 0.5,
        "seed": 12345,
        "classes": 10,
        "share_changed": np.mean(labels != true),
        "sha256": hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
        "train_sha256": hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
        "test_sha256": hashlib.sha256(
            experiment.test.labels.numpy().astype("<i8").tobytes()
        ).hexdigest(),
    }


@dataclass
class InPlace(Uniform):
    """A corruption as somebody may write it: it changes the labels that it was given."""

    def relabel(self, source: Source, corrupt: float) -> np.ndarray:
        source.labels[:] = (source.labels + 1) % source.classes
        return source.labels


def test_a_corruption_that_works_in_place_spoils_no_other_run() -> None:
    clean = parse(mlp_on_digits())
    before = assemble(clean).train.true.clone()
    spoilt = assemble(dataclasses.replace(clean, corruption=InPlace()))
    assert spoilt.corruption["share_changed"] == 1
    assert torch.equal(spoilt.train.true, before)
    assert torch.equal(assemble(clean).train.labels, before)


@pytest.mark.parametrize(
    "wrong", [lambda y: y / 1, lambda y: y[1:], lambda y: y + 10, lambda y: y - 1]
)
def test_a_corruption_that_returns_no_labels_is_refused(wrong) -> None:
    class Wrong(Uniform):
        def relabel(self, source: Source, corrupt: float) -> np.ndarray:
            return wrong(source.labels)

    config = dataclasses.replace(parse(mlp_on_digits()), corruption=Wrong())
    with pytest.raises(ValueError, match="relabel must return 1442 integers from 0 to 9"):
        assemble(config)


@pytest.mark.data
def test_cifar10_labels_equal_the_original_codes(real_data: object) -> None:
    config = parse({"corrupt": 1.0, "model": {"name": "linear"}})
    experiment = assemble(config)
    np.testing.assert_array_equal(
        experiment.train.labels.numpy(), original_labels(experiment.train.true.numpy(), 1.0, 10)
    )
    np.testing.assert_array_equal(
        experiment.test.labels.numpy(), original_labels(experiment.test.true.numpy(), 1.0, 10)
    )


# Matrices and exact counts


def random_matrix(classes: int = 10) -> np.ndarray:
    matrix = np.random.RandomState(4).rand(classes, classes) ** 3
    matrix[2] = np.eye(classes)[5]  # of which the whole class goes to one other
    return matrix / matrix.sum(1, keepdims=True)


def write_matrix(folder: Path, matrix: np.ndarray) -> str:
    np.savetxt(folder / "T.csv", matrix, delimiter=",")
    return str(folder / "T.csv")


@pytest.mark.parametrize("corrupt", [0.0, 0.3, 1.0])
def test_labels_are_drawn_by_the_matrix_of_the_file(corrupt: float, tmp_path: Path) -> None:
    matrix, source = random_matrix(), make_source(balanced())
    kind = Matrix(path=write_matrix(tmp_path, matrix))
    stated = kind.transition(source, corrupt)
    np.testing.assert_allclose(stated, (1 - corrupt) * np.eye(10) + corrupt * matrix)
    given = kind.relabel(source, corrupt)
    counts = np.zeros((10, 10))
    np.add.at(counts, (source.labels, given), 1)
    within = 4.5 * np.sqrt(np.maximum(stated * (1 - stated), 0) / 5_000)
    assert given.dtype == np.int64
    assert (np.abs(counts / 5_000 - stated) <= within + 1e-12).all()
    more = kind.relabel(source, min(1.0, corrupt + 0.2))
    changed = given != source.labels
    np.testing.assert_array_equal(more[changed], given[changed])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("0.9,0.2\n0,1", "must have lines of probabilities that sum to 1, and line 1 has .* 1.1; "),
        ("1,0\n1.5,-0.5", "sum to 1, and line 2 has a minimum of -0.5 and a sum of 1; divide"),
        ("nan,1\n0,1", "sum to 1, and line 1 has a minimum of nan and a sum of nan"),
        ("1,0\n0,1\n0,1", "must have 2 lines of 2 numbers, .* and has 3 lines of 2$"),
        ("1,0\n1", "must have 2 lines of 2 numbers, .* and has 2 lines of 1, 2$"),
        ("1,0,0\n0,1,0\n0,0,1", "as cifar10 has 2 classes, and has 3 lines of 3$"),
        ("", "must have 2 lines of 2 numbers, .* and has 0 lines of $"),
        ("a,b\n1,0\n0,1", "must have only numbers and commas; could not convert .*'a'$"),
    ],
)
def test_wrong_matrix_is_one_sentence(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "T.csv").write_text(content)
    with pytest.raises(ValueError, match=f"^corruption.path=.*T.csv .*{sentence}"):
        Matrix(path=str(tmp_path / "T.csv")).relabel(make_source(np.array([0, 1]), 2), 0.5)


@pytest.mark.parametrize("size", [1, 7, 1_000, 50_000])
@pytest.mark.parametrize("corrupt", [0.0, 0.2, 0.29, 0.5, 1.0])
def test_exactly_the_rounded_count_of_labels_is_redrawn(corrupt: float, size: int) -> None:
    redrawn = UniformCount().mask(size, corrupt)
    assert redrawn.sum() == round(corrupt * size)
    given = UniformCount().relabel(make_source(np.zeros(size)), corrupt)
    assert (given[~redrawn] == 0).all()
