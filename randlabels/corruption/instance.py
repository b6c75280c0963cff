"""Instance-dependent label noise: an image decides how likely, and as what, it is mislabelled."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..schema import POSITIVE, one_of
from . import Corruption, Source
from .base import stream

CHUNK_IMAGES = 4096  # per product in float64: 100 MB on CIFAR-10


@dataclass
class Instance(Corruption):
    """Each image i flips with its own probability q_i, to a class that its pixels choose.

    q_i is normal with mean `corrupt` and deviation `std`, truncated to 0..1. A matrix W_y
    (pixels × K) of standard normals belongs to each true class y; a flipped image x becomes
    class j ≠ y with probability softmax_j(x · W_y), where y itself is left out. Near corrupt = 0
    and 1 the truncation moves the mean of q (corrupt = 1: 0.92); corrupt = 0 changes nothing.

    The draws of an image do not depend on `corrupt`: the levels are nested, to the same class.
    Train and test sets share the matrices W and have independent draws. Transition matrix: no
    closed form; the mean of the images' probabilities over each class.

    Source: Xia et al. 2020, in their code (xiaoboxia/Part-dependent-label-noise, tools.py),
    whose `std` is 0.1.

    inputs: "stored": x in 0..255, as in their code (data.py), where the softmax is almost always
        one class; "unit": x/255, as in later code.
    """

    name = "instance"
    rules = {"std": POSITIVE, "inputs": one_of("stored", "unit")}

    std: float = 0.1
    inputs: str = "stored"

    def relabel(self, source: Source, corrupt: float) -> np.ndarray:
        labels = source.labels.copy()
        if corrupt == 0:
            return labels
        rate, flip, choice = self._draws(source)
        flipped = flip < self._flip_rates(rate, corrupt)
        for images, targets in self._targets(source, np.flatnonzero(flipped)):
            reached = targets.cumsum(1)
            threshold = choice[images, None] * reached[:, -1:]
            labels[images] = (reached > threshold).argmax(1)
        return labels

    def transition(self, source: Source, corrupt: float) -> np.ndarray:
        matrix = np.eye(source.classes)
        if corrupt == 0:
            return matrix
        rate, _, _ = self._draws(source)
        q = self._flip_rates(rate, corrupt)
        for images, targets in self._targets(source, np.arange(len(source.labels))):
            true = source.labels[images[0]]
            share = 1 / np.count_nonzero(source.labels == true)
            matrix[true] += share * (q[images] @ targets)
            matrix[true, true] -= share * q[images].sum()
        return matrix

    def _draws(self, source: Source) -> np.ndarray:
        """Draw (3, N) uniform in 0..1: the rank of q, whether an image flips, to which class."""
        return stream(f"instance/{source.split}", self.seed).rand(len(source.labels), 3).T

    def _flip_rates(self, rank: np.ndarray, corrupt: float) -> np.ndarray:
        """Return q, (N,), from uniform ranks: the inverse of the truncated normal."""
        low, high = torch.special.ndtr(torch.tensor([-corrupt, 1 - corrupt]).double() / self.std)
        z = torch.special.ndtri(low + torch.from_numpy(rank) * (high - low))
        return np.clip(corrupt + self.std * z.numpy(), 0, 1)

    def _targets(
        self, source: Source, wanted: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield indices (n,) of `wanted` images of a class, and P(label | flip) (n, K) float64."""
        pixels = source.images.reshape(len(source.images), -1)
        unit = 255.0 if self.inputs == "unit" else 1.0
        rng = stream("instance/weights", self.seed)
        for true in range(source.classes):
            weights = rng.standard_normal((pixels.shape[1], source.classes))
            of_class = wanted[source.labels[wanted] == true]
            for start in range(0, len(of_class), CHUNK_IMAGES):
                images = of_class[start : start + CHUNK_IMAGES]
                scores = pixels[images] / unit @ weights
                scores[:, true] = -np.inf
                scores -= scores.max(1, keepdims=True)
                exponentials = np.exp(scores)
                yield images, exponentials / exponentials.sum(1, keepdims=True)
