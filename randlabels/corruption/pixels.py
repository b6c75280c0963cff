"""Corruptions of pixels: the labels stay true, and the images lose what ties them to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ..dataset.histogram import histogram, moments
from . import Part
from .base import Seeded, hit, stream, streams

UNITS = ("all", "spatial")


@dataclass
class PixelCorruption(Seeded):
    """Each image, independently with probability `prob`, is altered, once and for all epochs.

    It is altered after the fixed crop of `preprocess` and before the normalisation. Train and
    test images are altered alike, each part with draws of its own. An image's draw depends on
    its part and its index alone, whatever the other images and `prob`: the levels are nested.

    Source: Zhang et al. 2017, section 2.1.
    """

    def relabel(self, part: Part, prob: float) -> np.ndarray:
        """A copy of the true labels, which this kind leaves alone."""
        return part.labels.copy()

    def transition(self, part: Part, prob: float) -> np.ndarray:
        return np.eye(part.classes)

    def altered(self, part: Part, prob: float) -> np.ndarray:
        """(N,) bool: the images of the whole part that are altered."""
        return hit(len(part.labels), prob, stream(f"altered/{part.name}", self.seed))

    def alter(
        self, images: np.ndarray, indices: np.ndarray, part: str, train: np.ndarray
    ) -> np.ndarray:
        """Altered copies of some images of a part.

        Args:
            images: (n, C, H, W) uint8, cropped.
            indices: (n,) their positions in the whole part.
            part: "train" or "test".
            train: (N, C, H, W) uint8, cropped, all training images.

        Returns:
            (n, C, H, W), uint8 where each value is one of the image's own, else float32 in the
            same pixel unit; neither clipped nor rounded.
        """
        raise NotImplementedError

    def _streams(self, part: str, indices: np.ndarray) -> Iterator[np.random.RandomState]:
        """A fresh generator for each image of a part, by its index."""
        return streams(f"pixels/{part}", self.seed, indices.tolist())


@dataclass
class _Permutation(PixelCorruption):
    """Moves the values of an image about.

    unit: "all": the C·H·W values, which mixes the channels; "spatial": the H·W positions, whose
        channels stay together. The paper does not say which; "all" is inferred from its Figure
        1a, where random pixels start at the loss of chance, as they do not if the colours of an
        image survive.
    """

    unit: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in UNITS:
            raise ValueError(f"corruption.unit={self.unit} is unknown; use {' or '.join(UNITS)}")

    def alter(
        self, images: np.ndarray, indices: np.ndarray, part: str, train: np.ndarray
    ) -> np.ndarray:
        n, channels, height, width = images.shape
        kept = 1 if self.unit == "all" else channels
        rows = images.reshape(n, kept, channels * height * width // kept)
        return self._moved(rows, indices, part).reshape(images.shape)

    def _moved(self, rows: np.ndarray, indices: np.ndarray, part: str) -> np.ndarray:
        """Images as (n, C, H·W), or (n, 1, C·H·W) if channels mix, permuted along the last."""
        raise NotImplementedError


@dataclass
class ShuffledPixels(_Permutation):
    """One permutation for all images of both parts."""

    name: ClassVar[str] = "shuffled_pixels"

    def _moved(self, rows: np.ndarray, indices: np.ndarray, part: str) -> np.ndarray:
        return rows[:, :, stream("shuffled_pixels", self.seed).permutation(rows.shape[2])]


@dataclass
class RandomPixels(_Permutation):
    """A permutation of its own for each image."""

    name: ClassVar[str] = "random_pixels"

    def _moved(self, rows: np.ndarray, indices: np.ndarray, part: str) -> np.ndarray:
        found = np.empty_like(rows)
        for row, rng in enumerate(self._streams(part, indices)):
            found[row] = rows[row][:, rng.permutation(rows.shape[2])]
        return found


@dataclass
class GaussianPixels(PixelCorruption):
    """Independent normal values with the mean and the variance of the training images.

    moments: "channel": of each channel; "scalar": of all values. The paper says "matching mean
        and variance to the original image dataset"; values that match by channel match in all,
        too, so that "channel" satisfies both readings.

    All of CIFAR-10's training images at 28×28 take 470 MB in float32. They are kept, and not
    drawn anew for each batch, because a draw costs more than the step of a small model.
    """

    name: ClassVar[str] = "gaussian_pixels"

    moments: str = "channel"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moments not in ("channel", "scalar"):
            raise ValueError(f"corruption.moments={self.moments} is unknown; use channel or scalar")

    def alter(
        self, images: np.ndarray, indices: np.ndarray, part: str, train: np.ndarray
    ) -> np.ndarray:
        mean, deviation = self._moments(train)
        found = np.empty(images.shape, dtype=np.float32)
        for row, rng in enumerate(self._streams(part, indices)):
            found[row] = mean + deviation * rng.standard_normal(images.shape[1:])
        return found

    def _moments(self, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and deviations, each (C or 1, 1, 1) float64, of the population."""
        counts = histogram(torch.from_numpy(train))
        mean, deviation = moments(
            counts.sum(0, keepdims=True) if self.moments == "scalar" else counts
        )
        return mean[:, None, None], deviation[:, None, None]
