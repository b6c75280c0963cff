"""Labels that become one fixed other class: the next one, or one that people confuse with it."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from . import Source
from .base import Mixture

SUPERCLASSES = (
    (4, 30, 55, 72, 95),  # aquatic mammals
    (1, 32, 67, 73, 91),  # fish
    (54, 62, 70, 82, 92),  # flowers
    (9, 10, 16, 28, 61),  # food containers
    (0, 51, 53, 57, 83),  # fruit and vegetables
    (22, 39, 40, 86, 87),  # household electrical devices
    (5, 20, 25, 84, 94),  # household furniture
    (6, 7, 14, 18, 24),  # insects
    (3, 42, 43, 88, 97),  # large carnivores
    (12, 17, 37, 68, 76),  # large man-made outdoor things
    (23, 33, 49, 60, 71),  # large natural outdoor scenes
    (15, 19, 21, 31, 38),  # large omnivores and herbivores
    (34, 63, 64, 66, 75),  # medium-sized mammals
    (26, 45, 77, 79, 99),  # non-insect invertebrates
    (2, 11, 35, 46, 98),  # people
    (27, 29, 44, 78, 93),  # reptiles
    (36, 50, 65, 74, 80),  # small mammals
    (47, 52, 56, 59, 96),  # trees
    (8, 13, 48, 58, 90),  # vehicles 1
    (41, 69, 81, 85, 89),  # vehicles 2
)
"""CIFAR-100's fine labels by its coarse ones (Krizhevsky 2009), in the order of the files."""

MAPS = {
    # truck to automobile, bird to airplane, deer to horse, cat to dog and dog to cat
    "cifar10": {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
    "mnist": {7: 1, 2: 7, 3: 8, 5: 6, 6: 5},
    "cifar100": {
        fine: group[(k + 1) % len(group)] for group in SUPERCLASSES for k, fine in enumerate(group)
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
