"""Multi-layer perceptron, as in the original code (model_mlp.py), and a single linear layer."""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import nn

from . import Model
from .init import initialize

MIN_BF16_WIDTH = 512  # with 64 units, conversions make bf16 slower (0.6 times)


@dataclass
class MLP(Model):
    """Linear layers with ReLU between them; `hidden` lists the widths.

    3072-512-10 without biases, the original code's `--mlp-spec=512`, has 1,577,984 parameters.
    Learning rate 0.01: the original README's command for the MLP.
    """

    name = "mlp"
    rules = {"hidden": (lambda ws: all(w >= 1 for w in ws), "widths of at least 1; try [512]")}

    hidden: list[int] = field(default_factory=lambda: [512])
    bias: bool = False
    lr: float | None = 0.01

    @property
    def bf16_on_cpu(self) -> bool:
        """Whether the narrowest hidden layer is wide enough to gain from bf16."""
        return min(self.hidden, default=MIN_BF16_WIDTH) >= MIN_BF16_WIDTH

    def build(self, image: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in pairwise([math.prod(image), *self.hidden, classes]):
            layers += [nn.Linear(n_in, n_out, bias=self.bias), nn.ReLU(inplace=True)]
        return initialize(nn.Sequential(*layers[:-1]), rng)


@dataclass
class Linear(Model):
    """One linear layer from all pixels to the logits: logistic regression under cross-entropy."""

    name = "linear"

    bias: bool = True
    lr: float | None = 0.01

    def build(self, image: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
        return MLP(hidden=[], bias=self.bias).build(image, classes, rng)
