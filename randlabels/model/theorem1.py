"""The two-layer ReLU network of 2n + d weights that represents any labels of n images."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from . import ExactModel, Fit, SolveOptions


@dataclass
class Theorem1(ExactModel):
    """c(x) = Σ_j w_j·max(⟨a, x⟩ - b_j, 0) with c(x_i) = y_i, the label as a number.

    Zhang et al. 2017, theorem 1: a ∈ R^d, b and w ∈ R^n. The direction a is drawn from N(0, I) by
    the run's seed; with the images in the order of ⟨a, x⟩, each threshold b_i lies between its
    image and the one before, so that the equations are triangular and are solved in O(n).
    """

    name: ClassVar[str] = "theorem1"

    lr: float | None = None
    draws: ClassVar[bool] = True

    def check(self, images: torch.Tensor, test: int, classes: int, options: SolveOptions) -> int:
        seen: dict[bytes, int] = {}
        for index, image in enumerate(images):
            digest = hashlib.sha256(image.numpy().tobytes()).digest()
            if (first := seen.setdefault(digest, index)) != index:
                raise ValueError(
                    f"model=theorem1 needs distinct images, and training images {first} and "
                    f"{index} are equal; use another data set or subset"
                )
        return (len(images) + test) * (images[0].numel() * 8 + 100)

    def encode(self, labels: torch.Tensor, classes: int) -> torch.Tensor:
        return labels.double()[:, None]

    def decode(self, outputs: torch.Tensor) -> torch.Tensor:
        """The nearest whole number, which on unseen images need not be a class."""
        return outputs[:, 0].round().clamp(-1, 2**62).long()

    def solve(
        self,
        train: torch.Tensor,
        test: torch.Tensor,
        targets: list[torch.Tensor],
        rng: torch.Generator,
        options: SolveOptions,
    ) -> list[Fit]:
        dimensions = train[0].numel()
        direction = torch.randn(dimensions, generator=rng, dtype=torch.float64).to(train.device)
        x, z = project(train, direction), project(test, direction)
        fits = []
        for target in targets:
            thresholds, weights = represent(x, target[:, 0])
            outputs, predictions = (evaluate(p, thresholds, weights)[:, None] for p in (x, z))
            fits.append(
                Fit(
                    train=outputs,
                    test=predictions,
                    parameters=len(direction) + len(thresholds) + len(weights),
                    report={
                        "interpolation_error": float((outputs - target).abs().max()),
                        "largest_weight": float(weights.abs().max()),
                    },
                )
            )
        options.tick(1.0)
        return fits


def project(images: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """⟨a, x⟩ (n,) float64 of images (n, C, H, W)."""
    return torch.cat([part.flatten(1).double() @ direction for part in images.split(1000)])


def represent(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Thresholds b and weights w, each (n,) float64, with Σ_j w_j·max(x_i - b_j, 0) = y_i.

    x: (n,) float64, distinct. y: (n,) float64.

    b_i is the next number of float64 above the x before it: strictly between the two, as the
    theorem's proof has it, and so near that c between two images is all but the line between
    their labels. In the middle, as the proof suggests first, errors grow a million times larger.

    Raises:
        ArithmeticError: two x are so close that no number lies between them.
    """
    order = x.argsort()
    values, labels = x[order].tolist(), y[order].tolist()
    thresholds, weights = [], []
    before, reached, slope = values[0] - 1.0, 0.0, 0.0  # c is 0 up to the first threshold
    for i, (value, label) in enumerate(zip(values, labels, strict=True)):
        threshold = math.nextafter(before, math.inf)
        if not before < threshold < value:
            raise ArithmeticError(
                f"training images {int(order[i - 1])} and {int(order[i])} have the same "
                "projection; use another seed, or remove duplicates"
            )
        reached += slope * (threshold - before)
        weight = (label - reached) / (value - threshold) - slope
        slope += weight  # rounded, as `evaluate` sums it
        reached += slope * (value - threshold)
        thresholds.append(threshold)
        weights.append(weight)
        before = value
    return x.new_tensor(thresholds), x.new_tensor(weights)


def evaluate(x: torch.Tensor, thresholds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """c(x) (n,) float64, from the slope and the value at the threshold left of each x.

    The plain sum Σ w_j·max(x - b_j, 0) is the same number; but its terms are 10^10 times as
    large as the result, which would lose its digits.
    """
    slopes = weights.cumsum(0)
    gaps = thresholds.diff()
    at_thresholds = torch.cat([x.new_zeros(1), (slopes[:-1] * gaps).cumsum(0)])
    left = torch.searchsorted(thresholds, x, right=True) - 1
    value = at_thresholds[left] + slopes[left] * (x - thresholds[left])
    return torch.where(left >= 0, value, 0.0)
