"""Pair flips: labels that slip to the next class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from . import Part
from .base import Mixture


@dataclass
class PairFlip(Mixture):
    """Each label i, independently with probability `prob`, becomes (i + 1) mod K.

    A share prob of the labels changes. Transition matrix: T[i, i] = 1 - prob,
    T[i, (i + 1) mod K] = prob. The levels are nested. The standard setting is prob = 0.45.

    Source: Han et al. 2018 (Co-teaching), section 4 and its code.
    """

    name: ClassVar[str] = "pair_flip"

    def targets(self, part: Part) -> np.ndarray:
        return (part.labels + 1) % part.classes

    def target_matrix(self, part: Part) -> np.ndarray:
        return np.roll(np.eye(part.classes), 1, axis=1)
