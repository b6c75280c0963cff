"""Uniform label noise, the corruption of Zhang et al. 2017."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from . import Part
from .base import Mixture, hit, stream


@dataclass
class Uniform(Mixture):
    """Each label, independently with probability `prob`, becomes a uniformly drawn class.

    The draw includes the true class, so on average a share prob·(K-1)/K of the labels
    changes. Transition matrix: T[i, j] = (1 - prob)·[i = j] + prob/K.

    Source: Zhang et al. 2017, section 2.1 ("partially corrupted labels"), and their code
    (pluskid/fitting-random-labels, cifar10_data.py), which this equals bit for bit. There the
    classes are drawn for the hit labels only, so that a label hit at two levels gets another
    class at each. `nested` hits the same labels and draws a class for every label, whatever
    the level.
    """

    name: ClassVar[str] = "uniform"

    nested: bool = False

    def targets(self, part: Part) -> np.ndarray:
        rng = stream("uniform", self.seed)
        return rng.randint(part.classes, size=len(part.labels), dtype=np.int64)

    def target_matrix(self, part: Part) -> np.ndarray:
        return np.full((part.classes, part.classes), 1 / part.classes)

    def relabel(self, part: Part, prob: float) -> np.ndarray:
        """Corrupted copy of the labels of `part`, from a fresh generator for each part."""
        if self.nested:
            return super().relabel(part, prob)
        rng = np.random.RandomState(self.seed)
        chosen = hit(len(part.labels), prob, rng)
        labels = part.labels.copy()
        labels[chosen] = rng.choice(part.classes, chosen.sum())
        return labels


@dataclass
class UniformExclusive(Mixture):
    """Each label, independently with probability `prob`, becomes another class, uniformly drawn.

    On average a share prob of the labels changes. Transition matrix: T[i, i] = 1 - prob,
    T[i, j] = prob/(K-1). The levels are nested.

    Source: Patrini et al. 2017 ("symmetric" noise of the forward correction), Han et al. 2018
    (Co-teaching, section 4), Nakkiran et al. 2019.
    """

    name: ClassVar[str] = "uniform_exclusive"

    def targets(self, part: Part) -> np.ndarray:
        rng = stream("uniform_exclusive", self.seed)
        steps = 1 + rng.randint(part.classes - 1, size=len(part.labels), dtype=np.int64)
        return (part.labels + steps) % part.classes

    def target_matrix(self, part: Part) -> np.ndarray:
        return (1 - np.eye(part.classes)) / (part.classes - 1)
