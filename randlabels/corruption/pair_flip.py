"""Pair flips: each label becomes the next class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from . import Source
from .base import Mixture


@dataclass
class PairFlip(Mixture):
    """Each label i, independently with probability `corrupt`, becomes (i + 1) mod K.

    A share corrupt of the labels changes. Transition matrix: T[i, i] = 1 - corrupt,
    T[i, (i + 1) mod K] = corrupt. The levels are nested. The usual setting is corrupt = 0.45.

    Source: Han et al. 2018 (Co-teaching), section 4 and its code.
    """

    name: ClassVar[str] = "pair_flip"

    def targets(self, source: Source, rng: np.random.RandomState) -> np.ndarray:
        return (source.labels + 1) % source.classes

    def target_matrix(self, source: Source) -> np.ndarray:
        return np.roll(np.eye(source.classes), 1, axis=1)
