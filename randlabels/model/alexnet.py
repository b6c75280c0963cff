"""The small AlexNet of Zhang et al. 2017 (appendix A)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from . import Model
from .inception import pad_same
from .init import initialize


class SmallAlexNet(nn.Module):
    """Two stages of conv5x5-64, ReLU, 3x3 max-pooling with stride 2 and local response
    normalisation; then linear layers of 384, 192 and K outputs with ReLU between them. All layers
    have biases.

    The paper does not give the channels; only 64 and 64, with SAME padding, match its parameter
    count. Pooling is padded as in TensorFlow: a 28x28 image becomes 14x14, then 7x7. The constants
    of the normalisation are those of TensorFlow's CIFAR-10 tutorial: depth_radius 4, bias 1, alpha
    0.001/9, beta 0.75. torch divides alpha by the 9 channels of the sum.
    """

    def __init__(self, image: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = image
        positions = -(-height // 4) * -(-width // 4)
        self.conv1 = nn.Conv2d(channels, 64, 5, padding=2)
        self.conv2 = nn.Conv2d(64, 64, 5, padding=2)
        self.norm = nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0)
        self.dense1 = nn.Linear(64 * positions, 384)
        self.dense2 = nn.Linear(384, 192)
        self.head = nn.Linear(192, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.conv2):
            x = F.relu(conv(x), inplace=True)
            x = self.norm(F.max_pool2d(pad_same(x, kernel=3, stride=2), 3, 2))
        x = F.relu(self.dense1(x.flatten(1)), inplace=True)
        return self.head(F.relu(self.dense2(x), inplace=True))


@dataclass
class AlexNet(Model):
    """1,387,786 parameters on 28x28x3 pixels and ten classes (Zhang et al. 2017, table 1).

    Learning rate 0.01: appendix A. The paper does not give the initial weights; they follow Glorot
    & Bengio 2010, as in the small Inception. Any image size.
    """

    name = "alexnet"

    lr: float | None = 0.01

    def build(self, image: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
        return initialize(SmallAlexNet(image, classes), rng, glorot=True)
