"""ResNet-18 (He et al. 2016) with the stem for small images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from . import Model
from .init import initialize


class Block(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN plus shortcut, then ReLU.

    Where the width changes, the shortcut is a 1x1 convolution followed by batch normalisation (He
    et al. 2016, option B).
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if width_in != width:
            self.shortcut.append(nn.Conv2d(width_in, width, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """conv3x3-64 without the max-pooling of the network for ImageNet, four groups of two blocks
    (widths 64, 128, 256, 512; strides 1, 2, 2, 2), global average pool, linear head."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(64)
        groups, width_in = [], 64
        for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            groups.append(nn.Sequential(Block(width_in, width, stride), Block(width, width, 1)))
            width_in = width
        self.groups = nn.Sequential(*groups)
        self.head = nn.Linear(width_in, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.groups(F.relu(self.bn(self.conv(x)), inplace=True))
        return self.head(x.mean(dim=(2, 3)))


@dataclass
class ResNet18(Model):
    """11,173,962 parameters on CIFAR-10. Any image size.

    Learning rate 0.1: He et al. 2016, section 4.2. Initial weights: He et al. 2015, as in
    `init.initialize`.
    """

    name = "resnet18"
    bf16_on_cpu = True

    lr: float | None = 0.1

    def build(self, image: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
        return initialize(ResNet(image[0], classes), rng)
