"""Corruptions: one file per family, pure functions from true labels to corrupted ones.

docs/extend.md says how to add one; `base` has what they share.
"""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from ..schema import Option


@dataclass(frozen=True)
class Source:
    """One whole split of a data set, in its own order, as a corruption sees it.

    In NumPy, unlike `dataset.Split`: a corruption needs no torch, and cannot write to tensors
    that several runs share.

    labels: (N,) int64 in [0, classes), the true ones; a copy.
    images: (N, C, H, W) uint8 as stored, read-only.
    classes: number of classes K.
    dataset: name of the data set, such as "cifar10".
    split: "train" or "test".
    files: paths of the images such as train/cat/1.png, of an image folder.
    """

    labels: np.ndarray
    images: np.ndarray
    classes: int
    dataset: str
    split: str
    files: tuple[str, ...] | None = None


@dataclass
class Corruption(Option):
    """Base class of the group `corruption`.

    seed: of all draws, independent of the run's seed.
    """

    rules = {"seed": (lambda seed: 0 <= seed < 2**32, "between 0 and 2^32-1")}

    seed: int = 12345  # the original code's

    @abstractmethod
    def relabel(self, source: Source, corrupt: float) -> np.ndarray:
        """Return corrupted labels (N,) int64 in [0, K), with probability `corrupt` in 0..1."""

    @abstractmethod
    def transition(self, source: Source, corrupt: float) -> np.ndarray:
        """Return T, (K, K) float64, rows sum to 1: the share of each label j per true label i."""
