"""Corruptions of pixels: the labels stay true, and the images lose what ties them to the label."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray

from ..dataset import moments
from ..schema import one_of
from . import Corruption, Source
from .base import draw_mask, stream, streams


@dataclass
class PixelCorruption(Corruption):
    """Each image, independently with probability `corrupt`, is altered once, for all epochs.

    It is altered after the fixed crop of `preprocess` and before the normalisation. Train and
    test images are altered alike, with independent draws. The draw of an image depends on its
    split and its index alone, so the levels are nested.

    Source: Zhang et al. 2017, section 2.1.
    """

    def relabel(self, source: Source, corrupt: float) -> ndarray:
        """Return a copy of the true labels."""
        return source.labels.copy()

    def transition(self, source: Source, corrupt: float) -> ndarray:
        return np.eye(source.classes)

    def altered(self, source: Source, corrupt: float) -> ndarray:
        """Return (N,) bool: the images of the whole split that are altered."""
        rng = stream(f"altered/{source.split}", self.seed)
        return draw_mask(len(source.labels), corrupt, rng)

    @abstractmethod
    def alter(self, images: ndarray, indices: ndarray, split: str, train: ndarray) -> ndarray:
        """Return altered copies (n, C, H, W) of some images of a split.

        They are uint8 where an image keeps its values, else float32 in the same pixel unit, neither
        clipped nor rounded.

        images: (n, C, H, W) uint8, cropped.
        indices: (n,) their positions in the whole split.
        split: "train" or "test".
        train: (N, C, H, W) uint8, cropped, all training images.
        """


@dataclass
class ShuffledPixels(PixelCorruption):
    """One permutation of an image's values for all images of both splits.

    unit: "all": the C·H·W values, which mixes the channels; "spatial": the H·W positions, whose
        channels stay together. The paper does not say which. "all" follows from its Figure 1a,
        where random pixels start at the loss of chance; with "spatial" they start below it.
    """

    name = "shuffled_pixels"
    rules = {"unit": one_of("all", "spatial")}

    unit: str = "all"

    def alter(self, images: ndarray, indices: ndarray, split: str, train: ndarray) -> ndarray:
        n, channels, height, width = images.shape
        kept = 1 if self.unit == "all" else channels
        rows = images.reshape(n, kept, channels * height * width // kept)
        return self._permute(rows, indices, split).reshape(images.shape)

    def _permute(self, rows: ndarray, indices: ndarray, split: str) -> ndarray:
        """Permute images (n, C, H·W), or (n, 1, C·H·W) if channels mix, along the last axis."""
        return rows[:, :, stream("shuffled_pixels", self.seed).permutation(rows.shape[2])]


@dataclass
class RandomPixels(ShuffledPixels):
    """An independent permutation of its values for each image."""

    name = "random_pixels"

    def _permute(self, rows: ndarray, indices: ndarray, split: str) -> ndarray:
        out = np.empty_like(rows)
        for row, rng in enumerate(streams(f"pixels/{split}", self.seed, indices.tolist())):
            out[row] = rows[row][:, rng.permutation(rows.shape[2])]
        return out


@dataclass
class GaussianPixels(PixelCorruption):
    """Independent normal values with the mean and the variance of the training images.

    moments: "channel": of each channel; "scalar": of all values. The paper says "matching mean
        and variance to the original image dataset"; values that match by channel match in all,
        too, so that "channel" satisfies both readings.

    All of CIFAR-10's training images at 28×28 take 470 MB in float32. They are kept, not drawn
    for each batch, because a draw costs more than the step of a small model.
    """

    name = "gaussian_pixels"
    rules = {"moments": one_of("channel", "scalar")}

    moments: str = "channel"

    def alter(self, images: ndarray, indices: ndarray, split: str, train: ndarray) -> ndarray:
        one_channel = train.reshape(len(train), 1, -1, train.shape[-1])
        source = one_channel if self.moments == "scalar" else train
        mean, deviation = (each[:, None, None] for each in moments(torch.from_numpy(source)))
        out = np.empty(images.shape, dtype=np.float32)
        for row, rng in enumerate(streams(f"pixels/{split}", self.seed, indices.tolist())):
            out[row] = mean + deviation * rng.standard_normal(images.shape[1:])
        return out
