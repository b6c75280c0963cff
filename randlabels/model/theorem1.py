"""The two-layer ReLU network of 2n + d weights that represents any labels of n images."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from . import ExactFit, ExactModel, SolveOptions


@dataclass
class Theorem1(ExactModel):
    """c(x) = Σ_j w_j·max(⟨a, x⟩ - b_j, 0) with c(x_i) = y_i, the label as a number.

    Zhang et al. 2017, theorem 1: a ∈ R^d, b and w ∈ R^n. The direction a is drawn from N(0, I) by
    the run's seed. With the images in the order of ⟨a, x⟩, each threshold b_i lies between its
    image and the one before. The equations are then triangular, and are solved in O(n).
    That is always done on the CPU, which sums in sequence; a GPU's parallel sums lose six digits.
    """

    name = "theorem1"

    lr: float | None = None
    draws = True

    def check(self, images: Tensor, test: int, classes: int, options: SolveOptions) -> int:
        seen: dict[bytes, int] = {}
        for index, image in enumerate(images):
            if (first := seen.setdefault(image.numpy().tobytes(), index)) != index:
                raise ValueError(
                    f"model=theorem1 needs distinct images, and training images {first} and "
                    f"{index} are equal; use another data set or subset"
                )
        return (len(images) + test) * (images[0].numel() * 8 + 100)

    def encode(self, labels: Tensor, classes: int) -> Tensor:
        return labels.double()[:, None]

    def decode(self, outputs: Tensor) -> Tensor:
        """Return the nearest whole number, which on unseen images need not be a class."""
        return outputs[:, 0].round().clamp(-1, 2**62).long()

    def solve(
        self, train: Tensor, test: Tensor, sets: list[Tensor], rng: Generator, options: SolveOptions
    ) -> list[ExactFit]:
        dimensions = train[0].numel()
        direction = torch.randn(dimensions, generator=rng, dtype=torch.float64)
        x, z = (
            torch.cat([part.flatten(1).double() @ direction for part in images.cpu().split(1000)])
            for images in (train, test)
        )
        fits = []
        for target in sets:
            thresholds, weights = represent(x, target[:, 0].cpu())
            outputs, predictions = (
                evaluate(p, thresholds, weights)[:, None].to(train.device) for p in (x, z)
            )
            report = {
                "interpolation_error": float((outputs - target).abs().max()),
                "largest_weight": float(weights.abs().max()),
            }
            fits.append(ExactFit(outputs, predictions, 2 * len(x) + dimensions, report))
        options.tick(1.0)
        return fits


def represent(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return thresholds b and weights w, each (n,) float64, with Σ_j w_j·max(x_i - b_j, 0) = y_i.

    x: (n,) float64, distinct. y: (n,) float64.

    b_i is the float64 number next above the x before it: strictly between the two, as in the
    theorem's proof, and so near that c is almost the line between neighbouring labels. With
    midpoints, the proof's first suggestion, errors are a million times larger.

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


def evaluate(x: Tensor, thresholds: Tensor, weights: Tensor) -> Tensor:
    """Return c(x) (n,) float64, from slope and value at the threshold to the left of each x.

    The terms of the plain sum Σ w_j·max(x - b_j, 0) are 10^10 times as large as the result, whose
    digits would be lost.
    """
    slopes = weights.cumsum(0)
    gaps = thresholds.diff()
    at_thresholds = torch.cat([x.new_zeros(1), (slopes[:-1] * gaps).cumsum(0)])
    left = torch.searchsorted(thresholds, x, right=True) - 1
    value = at_thresholds[left] + slopes[left] * (x - thresholds[left])
    return torch.where(left >= 0, value, 0.0)
