"""Uniform label noise, the corruption of Zhang et al. 2017."""

from dataclasses import dataclass

import numpy as np

from . import Source
from .base import Mixture, draw_mask


class UniformTargets(Mixture):
    """A mixture whose targets are uniformly drawn classes, which may be the true ones."""

    def targets(self, source: Source, rng: np.random.RandomState) -> np.ndarray:
        return rng.randint(source.classes, size=len(source.labels), dtype=np.int64)

    def target_matrix(self, source: Source) -> np.ndarray:
        return np.full((source.classes, source.classes), 1 / source.classes)


@dataclass
class Uniform(UniformTargets):
    """Each label, independently with probability `corrupt`, becomes a uniformly drawn class.

    The draw includes the true class, so on average a share corrupt·(K-1)/K of the labels changes.

    Source: Zhang et al. 2017, section 2.1 ("partially corrupted labels"), and their code
    (pluskid/fitting-random-labels, cifar10_data.py), which this equals bit for bit. There a
    class is drawn for corrupted labels only, so that a label has another class at each level.

    nested: corrupt the same labels, to classes that do not depend on the level.
    """

    name = "uniform"

    nested: bool = False

    def relabel(self, source: Source, corrupt: float) -> np.ndarray:
        """Return a corrupted copy of the labels, from a fresh generator for each split."""
        if self.nested:
            return super().relabel(source, corrupt)
        rng = np.random.RandomState(self.seed)
        mask = draw_mask(len(source.labels), corrupt, rng)
        labels = source.labels.copy()
        labels[mask] = rng.choice(source.classes, mask.sum())
        return labels


@dataclass
class UniformExclusive(Mixture):
    """Each label, independently with probability `corrupt`, becomes another class, uniformly drawn.

    On average a share corrupt of the labels changes.

    Source: Patrini et al. 2017 ("symmetric" noise of the forward correction), Han et al. 2018
    (Co-teaching, section 4), Nakkiran et al. 2019.
    """

    name = "uniform_exclusive"

    def targets(self, source: Source, rng: np.random.RandomState) -> np.ndarray:
        self._check(source)
        steps = rng.randint(1, source.classes, size=len(source.labels), dtype=np.int64)
        return (source.labels + steps) % source.classes

    def target_matrix(self, source: Source) -> np.ndarray:
        self._check(source)
        return (1 - np.eye(source.classes)) / (source.classes - 1)

    def _check(self, source: Source) -> None:
        if source.classes < 2:
            raise ValueError(
                f"corruption=uniform_exclusive needs at least 2 classes, and {source.dataset} has "
                f"{source.classes}; use corruption=uniform"
            )


@dataclass
class UniformCount(UniformTargets):
    """Exactly round(corrupt·N) labels become uniformly drawn classes, which may be the true ones.

    These labels are drawn without replacement. In the transition matrix, round(corrupt·N)/N takes
    the place of corrupt.

    Source: the symmetric noise of Li et al. 2020 (DivideMix) and Liu et al. 2020 (ELR), whose
    code rounds corrupt·N down and draws other numbers.
    """

    name = "uniform_count"

    def mask(self, size: int, corrupt: float) -> np.ndarray:
        order = np.random.RandomState(self.seed).rand(size).argsort(kind="stable")
        mask = np.zeros(size, dtype=bool)
        mask[order[: round(corrupt * size)]] = True
        return mask

    def transition(self, source: Source, corrupt: float) -> np.ndarray:
        size = len(source.labels)
        return super().transition(source, round(corrupt * size) / max(size, 1))
