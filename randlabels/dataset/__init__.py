"""Data sets as tensors: two pairs of images and labels, whole, in the data set's own order."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch

from ..randomness import generator
from .histogram import histogram, moments


@dataclass(frozen=True)
class Split:
    """One half of a data set.

    images: (N, C, H, W) uint8, 0..255.
    labels: (N,) int64 in [0, K), the true labels.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
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


@dataclass(frozen=True)
class Data:
    """A whole data set.

    published_moments: channel means and standard deviations in pixel units (0..255) that a
        published experiment standardised with; null to use the training set's own.
    """

    train: Split
    test: Split
    classes: int
    published_moments: tuple[list[float], list[float]] | None = None

    def __post_init__(self) -> None:
        for split in (self.train, self.test):
            low, high = (int(x) for x in split.labels.aminmax()) if len(split.labels) else (0, 0)
            if not 0 <= low <= high < self.classes:
                raise ValueError(
                    f"labels must be 0 to {self.classes - 1} for {self.classes} classes; these are "
                    f"{low} to {high}"
                )

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of one image: channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Channel means and standard deviations to standardize with.

        Each (C,) float32 in pixel units 0..255: the published ones, or else the population's of
        the whole clean training set, where a constant channel gets deviation 1.
        """
        if self.published_moments:
            mean, deviation = (torch.tensor(values) for values in self.published_moments)
        else:
            mean, deviation = map(torch.from_numpy, moments(histogram(self.train.images)))
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
class Dataset:
    """What every option of the group `dataset` has.

    root: folder that holds the files (null: the environment variable RANDLABELS_DATA, else
        `data`).
    download: fetch missing files, where the data set has a published source.
    train_size, test_size: number of images to keep, the same from each class as far as the
        classes allow (null: all).
    holdout: number of training images that take the place of the test images, likewise, so that
        a hyper-parameter can be chosen without a look at these (null: none).
    subset_seed: which images those are.
    """

    name: ClassVar[str]

    root: str | None = None
    download: bool = True
    train_size: int | None = None
    test_size: int | None = None
    holdout: int | None = None
    subset_seed: int = 0

    def __post_init__(self) -> None:
        for key in ("train_size", "test_size", "holdout"):
            size = getattr(self, key)
            if size is not None and size < 1:
                raise ValueError(f"dataset.{key}={size} must be at least 1, or null")

    @property
    def folder(self) -> Path:
        """Where the files are looked for."""
        return Path(self.root or os.environ.get("RANDLABELS_DATA") or "data").expanduser()

    def load(self) -> Data:
        """Read the whole data set; ValueError says what is missing or broken, and the remedy."""
        raise NotImplementedError

    def held_out(self, data: Data) -> Data:
        """The data with `holdout` training images in place of the test images."""
        if self.holdout is None:
            return data
        images, labels = data.train.images, data.train.labels
        if self.holdout >= len(labels):
            raise ValueError(
                f"dataset.holdout={self.holdout} leaves none of the {len(labels):,} training "
                f"images of {self.name} to train on; use fewer"
            )
        rng = generator("holdout", self.subset_seed)
        held = torch.zeros(len(labels), dtype=torch.bool)
        held[balanced_subset(labels, self.holdout, rng)] = True
        return replace(
            data,
            train=Split(images[~held], labels[~held]),
            test=Split(images[held], labels[held]),
        )

    def indices(self, labels: torch.Tensor, part: str) -> torch.Tensor:
        """Sorted indices (n,) int64 of the images to keep, given all labels (N,) of a part.

        `part` is "train" or "test"; n is `train_size` or `test_size`, or N where that is null.
        """
        size = {"train": self.train_size, "test": self.test_size}[part]
        if size is None:
            return torch.arange(len(labels))
        if size > len(labels):
            raise ValueError(
                f"dataset.{part}_size={size} exceeds the {len(labels):,} {part} images of "
                f"{self.name}; use 1 to {len(labels)}, or null for all"
            )
        return balanced_subset(labels, size, generator(f"subset/{part}", self.subset_seed))


def balanced_subset(labels: torch.Tensor, size: int, rng: torch.Generator) -> torch.Tensor:
    """Sorted indices (size,) of a subset with as equal a number from each class as possible.

    A class that is too small gives all it has. Subsets of one `rng` seed are nested: a larger
    one contains every smaller one.
    """
    order = torch.randperm(len(labels), generator=rng)
    rank = torch.empty_like(order)  # position of an image among those of its class
    for label in labels.unique():
        of_class = order[labels[order] == label]
        rank[of_class] = torch.arange(len(of_class))
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order))
    # Round by round, one image from each class; within a round, in the drawn order.
    chosen = torch.argsort(rank * len(labels) + position)[:size]
    return chosen.sort().values
