"""LeNet-5 (LeCun et al. 1998) in the form used on MNIST in work on label noise."""

from dataclasses import dataclass

import torch
from torch import nn

from . import Model

MIN_IMAGE_SIDE = 12  # pixels; below, the second pooling has no input
MAX_INITIAL_WEIGHT = 0.2  # phuber/network.py truncates its normal distribution here


@dataclass
class LeNet(Model):
    """conv5x5-6 (padding 2), ReLU, mean-pool 2, conv5x5-16, ReLU, mean-pool 2, linear layers of
    120, 84 and K outputs with ReLU between them: 61,706 parameters on 28x28x1 and ten classes.

    The network of dmizr/phuber (phuber/network.py), whose MNIST results sweep=noise/phuber_mnist
    reproduces. Initial weights are the same, a standard normal truncated at ±0.2 (standard
    deviation 0.115), except for the biases, which are 0. Learning rate 0.01: Zhang et al. 2017
    (appendix A) for networks of similar depth; that sweep sets Adam and its learning rate.
    """

    name = "lenet"

    lr: float | None = 0.01

    def build(self, image: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
        """Build as `Model.build`; raise ValueError if the images are too small."""
        channels, height, width = image
        if min(height, width) < MIN_IMAGE_SIDE:
            raise ValueError(
                f"model=lenet needs images of {MIN_IMAGE_SIDE}x{MIN_IMAGE_SIDE} pixels or more, "
                f"not {height}x{width}; use model=alexnet, which takes any size"
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
        bounds = -MAX_INITIAL_WEIGHT, MAX_INITIAL_WEIGHT
        for values in network.parameters():
            if values.ndim > 1:
                nn.init.trunc_normal_(values, 0.0, 1.0, *bounds, generator=rng)
            else:  # biases
                nn.init.zeros_(values)
        return network
