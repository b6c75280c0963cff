"""Linear classifier on the pixels (multinomial logistic regression under cross-entropy)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from . import Model
from .init import initialize


@dataclass
class Linear(Model):
    """One linear layer from all pixels to the logits, initialised like the layers of the MLP."""

    name: ClassVar[str] = "linear"
    bf16_on_cpu: ClassVar[bool] = False  # slower in bf16

    bias: bool = True
    lr: float | None = 0.01

    def build(self, image: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
        layer = nn.Linear(math.prod(image), classes, bias=self.bias)
        return initialize(nn.Sequential(nn.Flatten(), layer), rng)
