"""Corruptions: one file each, pure functions from true labels to corrupted ones.

To add one, add one file with one dataclass: its fields are the config keys, its class
attribute `name` is what users type after `corruption=`, and `relabel` does the work.
`base` has what the options of this package share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np


@dataclass(frozen=True)
class Part:
    """One part of a data set, whole and in its own order, as a corruption is told of it.

    labels: (N,) int64 in [0, classes), the true ones.
    images: (N, C, H, W) uint8 as stored, read-only.
    classes: number of classes K.
    dataset: name of the data set, such as "cifar10".
    name: "train" or "test".
    """

    labels: np.ndarray
    images: np.ndarray
    classes: int
    dataset: str
    name: str


class Corruption(Protocol):
    """What the program asks of an option of the group `corruption`.

    One of pixels has `altered` and `alter` too; see `pixels.PixelCorruption`.
    """

    name: ClassVar[str]
    seed: int

    def relabel(self, part: Part, prob: float) -> np.ndarray:
        """New labels (N,) int64 in [0, K) for the true ones of `part`, at `prob` in 0..1."""
        ...

    def transition(self, part: Part, prob: float) -> np.ndarray:
        """(K, K) float64, rows sum to 1: the probability of label j, given the true label i."""
        ...
