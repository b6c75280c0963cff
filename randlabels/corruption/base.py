"""What corruptions share: the seed, the draw of who is hit, and mixtures of labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..randomness import derive_seed
from . import Part


@dataclass
class Seeded:
    """A corruption with a seed of its own, apart from the run's."""

    seed: int = 12345  # the original code's

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(
                f"corruption.seed={self.seed} is outside NumPy's range; use 0 to {2**32 - 1}"
            )


@dataclass
class Mixture(Seeded):
    """Each label, independently with probability `prob`, becomes its target.

    The targets depend on no `prob`, so the levels are nested: a label corrupted at p stays so,
    to the same class, at every larger p. With one `seed`, all mixtures hit the same images as
    the original code. Transition matrix: T = (1 - prob)·I + prob·Q, where Q[i, j] is the
    probability that the target of a label i is j.
    """

    def targets(self, part: Part) -> np.ndarray:
        """(N,) int64 in [0, K): what each label becomes if it is hit."""
        raise NotImplementedError

    def target_matrix(self, part: Part) -> np.ndarray:
        """Q, (K, K) float64, rows sum to 1."""
        raise NotImplementedError

    def relabel(self, part: Part, prob: float) -> np.ndarray:
        """Corrupted copy of the labels of `part`; at prob = 0 nothing changes."""
        if prob == 0:
            return part.labels.copy()
        chosen = hit(len(part.labels), prob, np.random.RandomState(self.seed))
        return np.where(chosen, self.targets(part), part.labels)

    def transition(self, part: Part, prob: float) -> np.ndarray:
        if prob == 0:
            return np.eye(part.classes)
        return (1 - prob) * np.eye(part.classes) + prob * self.target_matrix(part)


def hit(size: int, prob: float, rng: np.random.RandomState) -> np.ndarray:
    """(size,) bool: true with probability `prob` (0..1) each; over `prob`, nested for one seed.

    Source: the mask of the original code (pluskid/fitting-random-labels, cifar10_data.py).
    """
    return rng.rand(size) <= prob if prob > 0 else np.zeros(size, dtype=bool)


def stream(purpose: str, seed: int) -> np.random.RandomState:
    """A fresh generator for one purpose.

    NumPy guarantees for RandomState alone that no version changes what a seed gives.
    """
    return next(streams(purpose, seed, [0]))


def streams(purpose: str, seed: int, indices: Iterable[int]) -> Iterator[np.random.RandomState]:
    """A fresh generator for each image, which depends on its index alone.

    It is the same object each time, seeded anew: making one takes longer than permuting an image.
    """
    rng = np.random.RandomState(0)
    for index in indices:
        derived = derive_seed(f"corruption/{purpose}", seed, index)
        rng.seed([derived % 2**32, derived // 2**32])
        yield rng


def frequencies(true: np.ndarray, given: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) float64: the share of label j among the images whose true label is i.

    A class without images has the row of the identity.
    """
    counts = np.zeros((classes, classes))
    np.add.at(counts, (true, given), 1)
    empty = counts.sum(1) == 0
    counts[empty, empty] = 1
    return counts / counts.sum(1, keepdims=True)
