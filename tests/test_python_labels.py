"""`randlabels.corrupt`: the labels of a run for arrays and data sets of other code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import CIFAR10, ImageFolder

import randlabels
from randlabels import experiment
from randlabels.config import parse


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
