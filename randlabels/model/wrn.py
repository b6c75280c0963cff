"""Wide residual network with pre-activation, as in the original code (model_wideresnet.py)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..schema import AT_LEAST_1
from . import Model
from .dropout import Dropout
from .init import initialize


class Block(nn.Module):
    """BN-ReLU-conv3x3-dropout-BN-ReLU-conv3x3 plus shortcut.

    Where the width changes, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, width_in: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(width_in, width, 1, stride, bias=False) if width_in != width else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        skip = x if self.shortcut is None else self.shortcut(active)
        out = self.dropout(self.conv1(active))
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        return out.add_(skip)


class WideResNet(nn.Module):
    """conv3x3-16, three groups of n blocks (widths 16w, 32w, 64w; strides 1, 2, 2), BN, ReLU,
    global average pool, linear head. n = (depth - 4) / 6. Any image size."""

    def __init__(self, channels: int, classes: int, depth: int, widen: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks, width_in = [], 16
        for width, stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
            for i in range((depth - 4) // 6):
                blocks.append(Block(width_in, width, stride if i == 0 else 1, dropout))
                width_in = width
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(width_in)
        self.head = nn.Linear(width_in, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.conv(x))
        x = F.relu(self.bn(x), inplace=True)
        return self.head(x.mean(dim=(2, 3)))


@dataclass
class WRN(Model):
    """WRN-depth-widen. Depth 28, widen 1 on CIFAR-10 has 369,498 parameters.

    Source: Zagoruyko & Komodakis 2016; the original code's defaults (cmd_args.py).
    """

    name = "wrn"
    bf16_on_cpu = True
    rules = {
        "widen": AT_LEAST_1,
        "dropout": (lambda p: 0 <= p < 1, "at least 0 and below 1"),
    }

    depth: int = 28
    widen: int = 1
    dropout: float = 0.0
    lr: float | None = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 10 or (self.depth - 4) % 6:
            below = max(10, 4 + 6 * ((self.depth - 4) // 6))
            raise ValueError(
                f"model.depth={self.depth} must be 6n+4 and at least 10; try {below} or {below + 6}"
            )

    def build(self, image: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
        network = WideResNet(image[0], classes, self.depth, self.widen, self.dropout)
        return initialize(network, rng)
