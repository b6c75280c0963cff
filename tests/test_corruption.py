"""Uniform corruption against the original code's formula, and what a run does with labels."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from randlabels.config import parse
from randlabels.corruption import Source
from randlabels.corruption.uniform import Uniform
from randlabels.experiment import assemble

from .sources import make_source


def original(labels: np.ndarray, corrupt: float, classes: int, seed: int = 12345) -> np.ndarray:
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
    np.testing.assert_array_equal(relabelled, original(labels, corrupt, 10))


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
    np.testing.assert_array_equal(relabelled, original(labels, corrupt, classes, seed))
    np.testing.assert_array_equal(labels, before)


def tree(**keys: object) -> dict[str, object]:
    return {"dataset": {"name": "digits"}, "model": {"name": "mlp"}, **keys}


def test_labels_depend_on_neither_run_seed_nor_model_nor_size() -> None:
    whole = assemble(parse(tree(corrupt=0.5)))
    other = assemble(parse(tree(corrupt=0.5, seed=7, model={"name": "linear"})))
    assert other.corruption == whole.corruption
    cut = assemble(parse(tree(corrupt=0.5, dataset={"name": "digits", "train_size": 100})))
    assert cut.corruption["sha256"] == whole.corruption["sha256"]
    assert cut.corruption["test_sha256"] == whole.corruption["test_sha256"]
    assert cut.corruption["train_sha256"] != whole.corruption["train_sha256"]


def test_record_states_the_share_changed_and_the_labels_checksums() -> None:
    experiment = assemble(parse(tree(corrupt=0.5)))
    labels, true = experiment.train.labels.numpy(), experiment.train.true.numpy()
    np.testing.assert_array_equal(labels, original(true, 0.5, 10))
    np.testing.assert_array_equal(
        experiment.test.labels.numpy(), original(experiment.test.true.numpy(), 0.5, 10)
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
    clean = parse(tree())
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

    config = dataclasses.replace(parse(tree()), corruption=Wrong())
    with pytest.raises(ValueError, match="relabel must return 1442 integers from 0 to 9"):
        assemble(config)


@pytest.mark.data
def test_cifar10_labels_equal_the_original_codes(real_data: object) -> None:
    config = parse({"corrupt": 1.0, "model": {"name": "linear"}})
    experiment = assemble(config)
    np.testing.assert_array_equal(
        experiment.train.labels.numpy(), original(experiment.train.true.numpy(), 1.0, 10)
    )
    np.testing.assert_array_equal(
        experiment.test.labels.numpy(), original(experiment.test.true.numpy(), 1.0, 10)
    )
