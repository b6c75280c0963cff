"""LeNet-5 (LeCun et al. 1998) in the form that the label-noise field trains on MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from . import Model

SMALLEST = 12
"""Pixels on a side from which both poolings have something to pool."""

CUT = 0.2
"""Where the normal distribution of the initial weights is cut off."""


@dataclass
class LeNet(Model):
    """conv5x5-6 (padding 2), ReLU, mean-pool 2, conv5x5-16, ReLU, mean-pool 2, linear layers of
    120, 84 and K outputs with ReLU between them: 61,706 parameters on 28x28x1 and ten classes.

    As in dmizr/phuber (phuber/network.py), whose results on MNIST sweep=noise/phuber_mnist
    repeats; so are the initial weights, a standard normal cut off at ±0.2 (deviation 0.115), but
    for the biases: 0. Learning rate 0.01: that of Zhang et al. 2017 (appendix A) for their
    networks of about this depth; those results take Adam with one of its own.
    """

    name: ClassVar[str] = "lenet"

    lr: float | None = 0.01

    def build(self, image: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
        """ValueError: the images are too small."""
        channels, height, width = image
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"model=lenet needs images of {SMALLEST}x{SMALLEST} pixels or more, not "
                f"{height}x{width}; use model=alexnet, which takes any size"
            )
        positions = (height // 2 - 4) // 2 * ((width // 2 - 4) // 2)
        network = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * positions, 120),
            nn.ReLU(inplace=True),
            nn.Linear(120, 84),
            nn.ReLU(inplace=True),
            nn.Linear(84, classes),
        )
        for layer in network:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(layer.weight, 0.0, 1.0, -CUT, CUT, generator=rng)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        return network
