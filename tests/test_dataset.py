"""Data sets: the published files' layout and checksums, the digits, moments, subsets."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from sklearn.datasets import load_digits
from torchvision import datasets

from randlabels import experiment
from randlabels.dataset import Data, Split, balanced_subset
from randlabels.dataset.digits import Digits
from randlabels.dataset.published import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST
from randlabels.randomness import generator


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def seeded_rng() -> np.random.RandomState:
    return np.random.RandomState(0)


# The published sets, in files of their own format with a few images


def write_cifar(root: Path, cls: type, key: str, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Files as torchvision's class `cls` expects them, its checksums set to theirs."""
    base = root / cls.base_folder
    base.mkdir(parents=True)
    contents = []

    def write(name: str, content: dict) -> tuple[str, str]:
        (base / name).write_bytes(pickle.dumps(content, protocol=2))
        return name, md5(base / name)

    def batches(listed: list) -> list[tuple[str, str]]:
        written = []
        for name, _ in listed:
            batch = {
                "data": seeded_rng().randint(0, 256, (20, 3072)).astype(np.uint8),
                key: [i % 10 for i in range(20)],
            }
            contents.append(batch)
            written.append(write(name, batch))
        return written

    monkeypatch.setattr(cls, "train_list", batches(cls.train_list))
    monkeypatch.setattr(cls, "test_list", batches(cls.test_list))
    meta = dict(cls.meta)
    meta["filename"], meta["md5"] = write(meta["filename"], {meta["key"]: list("abcdefghij")})
    monkeypatch.setattr(cls, "meta", meta)
    return contents


@pytest.mark.parametrize(
    ("option", "cls", "key"),
    [
        (CIFAR10, datasets.CIFAR10, "labels"),
        (CIFAR100, datasets.CIFAR100, "fine_labels"),
        (type("Mine", (CIFAR10,), {}), datasets.CIFAR10, "labels"),
    ],
    ids=["cifar10", "cifar100", "own subclass"],
)
def test_cifar_files_become_the_same_pixels_and_labels(
    option: type, cls: type, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = write_cifar(tmp_path, cls, key, monkeypatch)
    data = option(root=str(tmp_path), download=False).load()
    pixels = contents[0]["data"].reshape(20, 3, 32, 32)
    np.testing.assert_array_equal(data.train.images[:20], pixels)
    assert data.train.labels[:20].tolist() == contents[0][key]
    assert data.train.images.dtype == torch.uint8 and data.train.labels.dtype == torch.int64
    assert (data.image, data.classes) == ((3, 32, 32), 10)


def test_truncated_cifar_file_is_refused_before_it_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, datasets.CIFAR10, "labels", monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="fails its checksum"):
        CIFAR10(root=str(tmp_path), download=False).load()


def write_mnist(root: Path, cls: type, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    raw = root / cls.__name__ / "raw"
    raw.mkdir(parents=True)
    images = seeded_rng().randint(0, 256, (20, 28, 28)).astype(np.uint8)
    labels = (np.arange(20) % 10).astype(np.uint8)
    resources = []
    for name, _ in cls.resources:
        array = images if "images" in name else labels
        magic = struct.pack(">HBB", 0, 8, array.ndim)
        content = magic + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        (raw / name).write_bytes(gzip.compress(content))
        (raw / name.removesuffix(".gz")).write_bytes(content)
        resources.append((name, md5(raw / name)))
    monkeypatch.setattr(cls, "resources", resources)
    return images


@pytest.mark.parametrize(
    ("option", "cls"),
    [(MNIST, datasets.MNIST), (FashionMNIST, datasets.FashionMNIST)],
    ids=["mnist", "fashion_mnist"],
)
def test_mnist_files_become_the_same_pixels_and_labels(
    option: type, cls: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_mnist(tmp_path, cls, monkeypatch)
    data = option(root=str(tmp_path), download=False).load()
    np.testing.assert_array_equal(data.test.images[:, 0], images)
    assert data.test.labels.tolist() == [i % 10 for i in range(20)]
    assert data.image == (1, 28, 28)


@pytest.mark.parametrize("damage", ["truncated", "one bit"])
@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "train-images-idx3-ubyte.gz"])
def test_damaged_mnist_file_is_refused(
    name: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path, datasets.MNIST, monkeypatch)
    file = tmp_path / "MNIST" / "raw" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content[:-4] if damage == "truncated" else content)
    with pytest.raises(ValueError, match="fails its checksum"):
        MNIST(root=str(tmp_path), download=False).load()


def test_svhn_files_become_the_same_pixels_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = seeded_rng().randint(0, 256, (32, 32, 3, 20)).astype(np.uint8)
    labels = np.arange(1, 21)[:, None] % 10
    labels[labels == 0] = 10  # SVHN's label of the digit 0
    listed = dict(datasets.SVHN.split_list)
    for split in ("train", "test"):
        url, name, _ = listed[split]
        scipy.io.savemat(tmp_path / name, {"X": pixels, "y": labels})
        listed[split] = [url, name, md5(tmp_path / name)]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    data = SVHN(root=str(tmp_path), download=False).load()
    np.testing.assert_array_equal(data.train.images, pixels.transpose(3, 2, 0, 1))
    assert data.train.labels.tolist() == [i % 10 for i in range(1, 21)]
    listed["train"][2] = "0" * 32
    with pytest.raises(ValueError, match="fails its checksum"):
        SVHN(root=str(tmp_path), download=False).load()


def test_missing_files_are_named_with_the_remedy(tmp_path: Path) -> None:
    for option in (CIFAR10, CIFAR100, MNIST, FashionMNIST, SVHN):
        with pytest.raises(ValueError, match=rf"^{option.name} in .*missing.*dataset.download=tr"):
            option(root=str(tmp_path), download=False).load()


@pytest.mark.data
def test_real_cifar10_and_mnist_have_their_published_sizes_and_moments(real_data: Path) -> None:
    cifar = CIFAR10(root=str(real_data), download=False).load()
    assert cifar.train.images.shape == (50_000, 3, 32, 32)
    assert cifar.test.images.shape == (10_000, 3, 32, 32)
    assert cifar.train.labels.bincount().tolist() == [5_000] * 10
    assert cifar.moments[0].tolist() == pytest.approx([125.3, 123.0, 113.9])
    own = Data(cifar.train, cifar.test, 10)
    assert own.moments[0].tolist() == pytest.approx([125.3, 123.0, 113.9], abs=0.1)
    assert own.moments[1].tolist() == pytest.approx([63.0, 62.1, 66.7], abs=0.1)
    mnist = MNIST(root=str(real_data), download=False).load()
    assert mnist.train.images.shape == (60_000, 1, 28, 28)
    assert mnist.moments[0].item() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert mnist.moments[1].item() / 255 == pytest.approx(0.3081, abs=1e-4)


# The embedded digits


def test_digits_are_scikit_learns_split_by_class() -> None:
    source, data = load_digits(), Digits().load()
    assert (len(data.train.labels), len(data.test.labels)) == (1_442, 355)
    scaled = np.rint(source.images * 255 / 16).astype(np.uint8)
    for label in range(10):
        of_class = scaled[source.target == label]
        is_test = np.arange(len(of_class)) % 5 == 4
        for split, mask in ((data.train, ~is_test), (data.test, is_test)):
            np.testing.assert_array_equal(split.images[split.labels == label, 0], of_class[mask])


# Moments, checksums, subsets


def test_moments_equal_numpys_and_a_constant_channel_has_deviation_1() -> None:
    images = seeded_rng().randint(0, 256, (30, 3, 5, 4)).astype(np.uint8)
    images[:, 2] = 9
    split = Split(torch.tensor(images), torch.zeros(30, dtype=torch.int64))
    mean, deviation = Data(split, split, 1).moments
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(deviation[:2], images.std((0, 2, 3))[:2], rtol=1e-6)
    assert deviation[2] == 1


def test_subset_is_balanced_sorted_and_nested() -> None:
    labels = torch.tensor(seeded_rng().choice(4, 400, p=[0.5, 0.3, 0.15, 0.05]))
    chosen: set[int] = set()
    for size in (1, 4, 10, 60, 200, 400):
        indices = balanced_subset(labels, size, generator("subset/train", 0))
        counts = labels[indices].bincount(minlength=4)
        available = labels.bincount(minlength=4)
        assert len(indices) == size and torch.equal(indices, indices.unique())
        short = counts < counts.max() - 1  # such a class has given all it has
        assert torch.equal(counts[short], available[short])
        assert chosen <= set(indices.tolist())
        chosen = set(indices.tolist())


def test_subset_depends_on_its_seed_and_on_the_split() -> None:
    labels = torch.arange(1000) % 10
    first = Digits(train_size=100, test_size=100)
    assert torch.equal(first.indices(labels, "train"), first.indices(labels, "train"))
    assert not torch.equal(first.indices(labels, "train"), first.indices(labels, "test"))
    other = Digits(train_size=100, subset_seed=1)
    assert not torch.equal(first.indices(labels, "train"), other.indices(labels, "train"))


def test_holdout_takes_the_place_of_the_test_images() -> None:
    """Held-out images are not trained on, are balanced over classes, and never are test images."""
    whole = experiment.load(Digits())
    held = experiment.load(Digits(holdout=200))
    assert len(held.train.labels) == 1442 - 200 and len(held.test.labels) == 200
    pixels = [part.images.flatten(1).tolist() for part in (held.train, held.test, whole.train)]
    trained, tested, all_ = (sorted(part) for part in pixels)
    assert sorted(trained + tested) == all_
    counts = held.test.labels.bincount()
    assert counts.max() - counts.min() <= 1
    assert torch.equal(experiment.load(Digits(holdout=200)).test.images, held.test.images)
    other = experiment.load(Digits(holdout=200, subset_seed=1))
    assert not torch.equal(other.test.images, held.test.images)
    with pytest.raises(ValueError, match="dataset.holdout=1442 must be below the 1,442 training"):
        experiment.load(Digits(holdout=1442))
