"""Instance-dependent label noise: the image says how likely it is mislabelled, and as what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from . import Part
from .base import Seeded, stream

CHUNK = 4096
"""Images whose pixels stand in float64 at a time: 100 MB on CIFAR-10."""

INPUTS = {"stored": 1.0, "unit": 255.0}
"""What the stored pixels, 0..255, are divided by."""


@dataclass
class Instance(Seeded):
    """Each image i flips with a probability q_i of its own, to a class that its pixels choose.

    q_i is normal with mean `prob` and deviation `std`, truncated to 0..1. A matrix W_y
    (pixels × K) of standard normals belongs to each true class y; a flipped image x becomes
    class j ≠ y with probability softmax_j(x · W_y), where y itself is left out. Near prob = 0
    and 1 the truncation moves the mean of q (prob = 1: 0.92), and prob = 0 is made an exception
    that changes nothing.

    The draws of an image depend on no `prob`: the levels are nested, to the same class. Train
    and test sets share the matrices W and have draws of their own. Transition matrix: no closed
    form; the mean of the images' probabilities over each class.

    Source: Xia et al. 2020, as their code has it (xiaoboxia/Part-dependent-label-noise, tools.py),
    whose `std` is 0.1.

    inputs: "stored": x in 0..255, as their code has it (data.py), where the softmax is almost
        always one class; "unit": x/255, as later code has it.
    """

    name: ClassVar[str] = "instance"

    std: float = 0.1
    inputs: str = "stored"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.std < np.inf:
            raise ValueError(f"corruption.std={self.std} must be a positive number")
        if self.inputs not in INPUTS:
            raise ValueError(
                f"corruption.inputs={self.inputs} is unknown; use {' or '.join(INPUTS)}"
            )

    def relabel(self, part: Part, prob: float) -> np.ndarray:
        """Corrupted copy of the labels of `part`; at prob = 0 nothing changes."""
        labels = part.labels.copy()
        if prob == 0:
            return labels
        rate, flip, choice = self._draws(part)
        flipped = flip < self._flip_rates(rate, prob)
        for images, targets in self._targets(part, np.flatnonzero(flipped)):
            reached = targets.cumsum(1)
            threshold = choice[images, None] * reached[:, -1:]
            labels[images] = (reached > threshold).argmax(1)
        return labels

    def transition(self, part: Part, prob: float) -> np.ndarray:
        matrix = np.eye(part.classes)
        if prob == 0:
            return matrix
        rate, _, _ = self._draws(part)
        q = self._flip_rates(rate, prob)
        for images, targets in self._targets(part, np.arange(len(part.labels))):
            true = part.labels[images[0]]
            share = 1 / np.count_nonzero(part.labels == true)
            matrix[true] += share * (q[images] @ targets)
            matrix[true, true] -= share * q[images].sum()
        return matrix

    def _draws(self, part: Part) -> np.ndarray:
        """(3, N) uniform in 0..1: an image's rank in q, whether it flips, and to what."""
        return stream(f"instance/{part.name}", self.seed).rand(len(part.labels), 3).T

    def _flip_rates(self, rank: np.ndarray, prob: float) -> np.ndarray:
        """(N,) q from uniform ranks, by the inverse of the truncated normal's distribution."""
        low, high = torch.special.ndtr(torch.tensor([-prob, 1 - prob]).double() / self.std)
        z = torch.special.ndtri(low + torch.from_numpy(rank) * (high - low))
        return np.clip(prob + self.std * z.numpy(), 0, 1)

    def _targets(self, part: Part, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Chunks of the `wanted` images, each of one true class: their indices (n,), and the
        probabilities (n, K) float64 of what they become if they flip."""
        pixels = part.images.reshape(len(part.images), -1)
        rng = stream("instance/weights", self.seed)
        for true in range(part.classes):
            weights = rng.standard_normal((pixels.shape[1], part.classes))
            of_class = wanted[part.labels[wanted] == true]
            for start in range(0, len(of_class), CHUNK):
                images = of_class[start : start + CHUNK]
                scores = pixels[images] / INPUTS[self.inputs] @ weights
                scores[:, true] = -np.inf
                scores -= scores.max(1, keepdims=True)
                exponentials = np.exp(scores)
                yield images, exponentials / exponentials.sum(1, keepdims=True)
