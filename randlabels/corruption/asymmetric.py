"""Labels that become one fixed other class: the next one, or one that people confuse with it."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from . import Source
from .base import Mixture

SUPERCLASSES = """
    4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7
    6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14 17 18 10
    16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16
    12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13
""".split()
"""The coarse label of each of CIFAR-100's fine labels 0 to 99 (Krizhevsky 2009)."""

MAPS = {
    # truck to automobile, bird to airplane, deer to horse, cat to dog and dog to cat
    "cifar10": {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
    "mnist": {7: 1, 2: 7, 3: 8, 5: 6, 6: 5},
    "cifar100": {
        fine: (SUPERCLASSES * 2).index(superclass, fine + 1) % len(SUPERCLASSES)
        for fine, superclass in enumerate(SUPERCLASSES)
    },
}
"""The similar class of each class, by data set; other classes keep their labels."""


@dataclass
class ClassMap(Mixture):
    """Each label, independently with probability `corrupt`, becomes the class of a fixed map.

    All targets follow from the true labels, so no label goes from cat to dog and back.
    """

    @abstractmethod
    def class_map(self, source: Source) -> np.ndarray:
        """Return (K,) int64: what each class becomes; itself if it keeps its labels."""

    def targets(self, source: Source, rng: np.random.RandomState) -> np.ndarray:
        return self.class_map(source)[source.labels]

    def target_matrix(self, source: Source) -> np.ndarray:
        return np.eye(source.classes)[self.class_map(source)]


@dataclass
class PairFlip(ClassMap):
    """Each label i, independently with probability `corrupt`, becomes (i + 1) mod K.

    A share corrupt of the labels changes. The usual setting is corrupt = 0.45.

    Source: Han et al. 2018 (Co-teaching), section 4 and its code.
    """

    name = "pair_flip"

    def class_map(self, source: Source) -> np.ndarray:
        return (np.arange(source.classes) + 1) % source.classes


@dataclass
class Asymmetric(ClassMap):
    """Each label, independently with probability `corrupt`, becomes a fixed similar class.

    On CIFAR-10 and MNIST five of ten classes have one, so that on average a share corrupt/2
    of CIFAR-10's labels changes; on CIFAR-100 every class becomes the next one of its superclass,
    cyclically in the order of the fine labels.

    Source: Patrini et al. 2017, section 5 and their code. The order within a superclass is not
    in the paper; the code's (the next index) is meant for labels sorted by superclass, which
    CIFAR-100's are not.
    """

    name = "asymmetric"

    def class_map(self, source: Source) -> np.ndarray:
        if source.dataset not in MAPS:
            raise ValueError(
                f"corruption=asymmetric has no map of confused classes for {source.dataset}; "
                f"use dataset={', '.join(MAPS)}, or corruption=pair_flip"
            )
        confused = MAPS[source.dataset]
        return np.array([confused.get(i, i) for i in range(source.classes)], dtype=np.int64)
