"""Data sets as tensors: two splits of images and labels, whole, in the order of their files."""

import hashlib
import os
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from ..randomness import generator
from ..schema import Option


@dataclass(frozen=True)
class Split:
    """The training or the test half of a data set, as stored or as a run uses it.

    images: (N, C, H, W) uint8, 0..255; float32 where a corruption drew other values.
    labels: (N,) int64 in [0, K): the true labels, or the corrupted ones that a run is fitted to.
    original: (N,) int64 in [0, K), the true labels; None where `labels` are.
    altered: (N,) bool, the images that a corruption of pixels altered; None for one of labels.
    files: paths of the images of a whole image folder, such as train/cat/1.png; else None.
    index: (N,) int64, positions of the images in the stored half; None where all are there.
    """

    images: torch.Tensor
    labels: torch.Tensor
    original: torch.Tensor | None = None
    altered: torch.Tensor | None = None
    files: tuple[str, ...] | None = None
    index: torch.Tensor | None = None

    @property
    def true(self) -> torch.Tensor:
        """True labels (N,) int64."""
        return self.labels if self.original is None else self.original

    @property
    def changed(self) -> torch.Tensor:
        """(N,) bool: the corruption changed the label, or altered the image."""
        return self.labels != self.true if self.altered is None else self.altered

    def to(self, device: str) -> Self:
        """Return a copy on the device; on the same device, the same tensors."""
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        moved: dict[str, Any] = {key: tensor.to(device) for key, tensor in tensors.items()}
        return replace(self, **moved)

    def check(self, classes: int) -> None:
        """Raise ValueError unless images and labels have the form of a stored split."""
        shape = tuple(self.images.shape)
        if len(shape) != 4 or self.images.dtype != torch.uint8:
            raise ValueError(
                f"images must be a tensor (N, C, H, W) of torch.uint8; these are "
                f"{self.images.dtype} {shape}"
            )
        if shape[3] in (1, 3) and shape[1] == shape[2] > 3:
            raise ValueError(
                f"images {shape} seem to be (N, H, W, C); give (N, C, H, W), permute(0, 3, 1, 2)"
            )
        if tuple(self.labels.shape) != shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be a tensor ({shape[0]},) of torch.int64, one for each image; these "
                f"are {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        low, high = map(int, self.labels.aminmax()) if len(self.labels) else (0, 0)
        if not 0 <= low <= high < classes:
            raise ValueError(
                f"labels must be 0 to {classes - 1} for {classes} classes; these are "
                f"{low} to {high}"
            )


@dataclass(frozen=True)
class Data:
    """A whole data set.

    published_moments: channel means and standard deviations in pixel units (0..255) that a
        published experiment standardised with; None to use the training set's.
    drawn: corrupted labels by what drew them, so that one process draws the labels of a run once.
    """

    train: Split
    test: Split
    classes: int
    published_moments: tuple[list[float], list[float]] | None = None
    drawn: dict[object, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for split in (self.train, self.test):
            split.check(self.classes)

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of one stored image: channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Channel means and standard deviations to standardize with, (C,) float32 in 0..255.

        The published ones, or those of the whole clean training set; of a constant channel 1.
        """
        if self.published_moments:
            mean, deviation = (torch.tensor(values) for values in self.published_moments)
        else:
            mean, deviation = map(torch.from_numpy, moments(self.train.images))
            deviation[deviation == 0] = 1.0
        return mean.float(), deviation.float()

    @cached_property
    def sha256(self) -> str:
        """Checksum of all pixels and labels (labels as little-endian int64)."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(split.images.numpy().data)
            digest.update(split.labels.numpy().astype("<i8").data)
        return digest.hexdigest()


@dataclass
class Dataset(Option):
    """Base class of the group `dataset`.

    root: folder that holds the files (null: the environment variable RANDLABELS_DATA, else
        `data`).
    download: fetch missing files, where the data set has a published source.
    train_size, test_size: number of images to keep, the same from each class as far as the
        classes allow (null: all).
    holdout: number of training images to test on instead of the test images, so that a
        hyper-parameter can be chosen without them (null: none).
    subset_seed: seed that chooses the images of these three keys.
    """

    rules = dict.fromkeys(
        ("train_size", "test_size", "holdout"),
        (lambda size: size is None or size >= 1, "at least 1, or null"),
    )

    root: str | None = None
    download: bool = True
    train_size: int | None = None
    test_size: int | None = None
    holdout: int | None = None
    subset_seed: int = 0

    @property
    def folder(self) -> Path:
        return Path(self.root or os.environ.get("RANDLABELS_DATA") or "data").expanduser()

    @abstractmethod
    def load(self) -> Data:
        """Read the whole data set; ValueError says what is missing or broken, and the remedy."""

    def hold_out(self, data: Data) -> Data:
        """Return the data with `holdout` training images in place of the test images."""
        if self.holdout is None:
            return data
        images, labels = data.train.images, data.train.labels
        if self.holdout >= len(labels):
            raise ValueError(
                f"dataset.holdout={self.holdout} must be below the {len(labels):,} training images "
                f"of {self.name}, which leaves some to train on"
            )
        rng = generator("holdout", self.subset_seed)
        held = torch.zeros(len(labels), dtype=torch.bool)
        held[balanced_subset(labels, self.holdout, rng)] = True
        halves = []
        for mask in (~held, held):
            index = mask.nonzero()[:, 0]
            files = data.train.files and tuple(compress(data.train.files, mask))
            halves.append(Split(images[index], labels[index], files=files, index=index))
        return replace(data, train=halves[0], test=halves[1])

    def indices(self, labels: torch.Tensor, split: str) -> torch.Tensor:
        """Return sorted indices (n,) int64 of the images of "train" or "test" that are kept.

        labels: (N,) int64, all true ones. n is `train_size` or `test_size`, or N if that is null.
        """
        size = self.train_size if split == "train" else self.test_size
        if size is None:
            return torch.arange(len(labels))
        if size > len(labels):
            raise ValueError(
                f"dataset.{split}_size={size} exceeds the {len(labels):,} {split} images of "
                f"{self.name}; use 1 to {len(labels)}, or null for all"
            )
        return balanced_subset(labels, size, generator(f"subset/{split}", self.subset_seed))


def moments(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and population standard deviation of each channel of uint8 (N, C, H, W).

    Each (C,) float64 in pixel units 0..255, exact up to rounding for any number of images.
    """
    channels = images.unbind(1)
    counts = np.stack([torch.bincount(c.flatten(), minlength=256).numpy() for c in channels])
    shares, levels = counts / counts.sum(1, keepdims=True), np.arange(256)
    mean = shares @ levels
    return mean, np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0))


def balanced_subset(labels: torch.Tensor, size: int, rng: torch.Generator) -> torch.Tensor:
    """Return sorted indices (size,) of a subset, balanced over the classes as far as possible.

    A class that is too small gives all its images. Subsets of one `rng` seed are nested.
    """
    order = torch.randperm(len(labels), generator=rng)
    rounds = torch.empty_like(order)  # each takes one image from each class, in the drawn order
    for label in labels.unique():
        of_class = labels[order] == label
        rounds[of_class] = torch.arange(int(of_class.sum()))
    return order[rounds.argsort(stable=True)[:size]].sort().values
