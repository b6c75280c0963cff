"""The small Inception of Zhang et al. 2017 (appendix A, figure 3), with and without batch norm."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from . import Model
from .init import initialize


def conv_module(
    width_in: int, width: int, kernel: int, *, norm: bool, padding: int = 0, stride: int = 1
) -> nn.Sequential:
    """Return a convolution with biases, batch normalisation without scale and shift, and ReLU.

    The paper mentions neither choice, but only these give its parameter count, both with and
    without batch normalisation. Epsilon and momentum are torch's defaults; the paper has none.
    """
    layers: list[nn.Module] = [nn.Conv2d(width_in, width, kernel, stride, padding)]
    if norm:
        layers.append(nn.BatchNorm2d(width, affine=False))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


class InceptionModule(nn.Module):
    """Concatenate a 1x1 convolution (`width1` channels) and a 3x3 convolution (`width3`)."""

    def __init__(self, width_in: int, width1: int, width3: int, *, norm: bool) -> None:
        super().__init__()
        self.conv1 = conv_module(width_in, width1, 1, norm=norm)
        self.conv3 = conv_module(width_in, width3, 3, norm=norm, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.conv1(x), self.conv3(x)], dim=1)


class Downsample(nn.Module):
    """Concatenate a 3x3 convolution (`width` channels) and 3x3 max-pooling, both with stride 2.

    The input is never negative, because it comes from a ReLU: both can share zero padding.
    """

    def __init__(self, width_in: int, width: int, *, norm: bool) -> None:
        super().__init__()
        self.conv = conv_module(width_in, width, 3, norm=norm, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = pad_same(x, kernel=3, stride=2)
        return torch.cat([self.conv(x), F.max_pool2d(x, 3, 2)], dim=1)


class SmallInception(nn.Module):
    """The paper's eleven stages, global average pooling (over 7x7 positions of a 28x28 image), and
    a linear head. Any image size."""

    def __init__(self, channels: int, classes: int, *, norm: bool) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            conv_module(channels, 96, 3, norm=norm, padding=1),
            InceptionModule(96, 32, 32, norm=norm),
            InceptionModule(64, 32, 48, norm=norm),
            Downsample(80, 80, norm=norm),
            InceptionModule(160, 112, 48, norm=norm),
            InceptionModule(160, 96, 64, norm=norm),
            InceptionModule(160, 80, 80, norm=norm),
            InceptionModule(160, 48, 96, norm=norm),
            Downsample(144, 96, norm=norm),
            InceptionModule(240, 176, 160, norm=norm),
            InceptionModule(336, 176, 160, norm=norm),
        )
        self.head = nn.Linear(336, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(x).mean(dim=(2, 3)))


def pad_same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Pad images (B, C, H, W) with zeros so that a window of size `kernel` with stride `stride`
    fits ceil(H/stride) x ceil(W/stride) times.

    Where the number of zeros is odd, the larger half goes below and to the right, as in
    TensorFlow: a 3x3 window with stride 2 starts at pixel 0 of a 28x28 image, not at -1. Zeros
    also suit max-pooling if the images come from a ReLU.
    """
    padding = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)


@dataclass
class Inception(Model):
    """1,649,402 parameters on three channels and ten classes (Zhang et al. 2017, table 1).

    Learning rate 0.1: appendix A. The paper does not give the initial weights. These follow Glorot
    & Bengio 2010, TensorFlow's default at the time. With those of He et al. 2015, the network
    without batch normalisation diverges in the first epoch at this learning rate.
    """

    name = "inception"
    bf16_on_cpu = True
    norm = True

    lr: float | None = 0.1

    def build(self, image: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
        return initialize(SmallInception(image[0], classes, norm=self.norm), rng, glorot=True)


@dataclass
class InceptionNoBN(Inception):
    """The same network without batch normalisation, with the same number of parameters."""

    name = "inception_no_bn"
    norm = False
