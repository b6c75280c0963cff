"""Splits of data sets made by hand, for corruptions to work on."""

from __future__ import annotations

import numpy as np

from randlabels.corruption import Source


def make_source(
    labels: np.ndarray,
    classes: int = 10,
    *,
    images: np.ndarray | None = None,
    dataset: str = "cifar10",
    split: str = "train",
) -> Source:
    """Return a split with these labels; its images are drawn, grey and 3x3, unless given."""
    if images is None:
        shape = (len(labels), 1, 3, 3)
        images = np.random.RandomState(1).randint(0, 256, shape).astype(np.uint8)
    images.flags.writeable = False
    return Source(np.asarray(labels, dtype=np.int64), images, classes, dataset, split)


def balanced(size: int = 50_000, classes: int = 10) -> np.ndarray:
    """Return labels (size,) int64, equally many of each class."""
    return np.arange(size) % classes
