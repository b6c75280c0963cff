"""Uniform label noise, the corruption of Zhang et al. 2017."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass
class Uniform:
    """Each label, independently with probability `prob`, becomes a uniformly drawn class.

    The draw includes the true class, so on average a share prob·(K-1)/K of the labels
    changes. Transition matrix: T[i, j] = (1 - prob)·[i = j] + prob/K.

    Source: Zhang et al. 2017, section 2.1 ("partially corrupted labels"), and their code
    (pluskid/fitting-random-labels, cifar10_data.py), which this equals bit for bit.
    """

    name: ClassVar[str] = "uniform"

    seed: int = 12345  # the original code's

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(
                f"corruption.seed={self.seed} is outside NumPy's range; use 0 to {2**32 - 1}"
            )

    def relabel(self, labels: np.ndarray, prob: float, classes: int) -> np.ndarray:
        """Corrupted copy of `labels`.

        Args:
            labels: (N,) int64 in [0, classes), the true labels of a whole set, in its order.
            prob: probability that a label is redrawn, 0..1. At 0 nothing changes.
            classes: number of classes K.

        Returns:
            (N,) int64 in [0, classes). Train and test sets each start a fresh generator.
        """
        labels = labels.copy()
        if prob > 0:
            rng = np.random.RandomState(self.seed)
            mask = rng.rand(len(labels)) <= prob
            labels[mask] = rng.choice(classes, mask.sum())
        return labels
