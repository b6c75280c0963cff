"""Dropout with its own generator, so that a resumed run draws the same masks."""

import torch
from torch import nn


class Dropout(nn.Module):
    """Zero each entry with probability `p` in training and scale the rest by 1/(1-p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.rng: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.rng)
        return x * keep / (1 - self.p)


def reseed_dropout(model: nn.Module, rng: torch.Generator) -> None:
    """Make all dropout layers of `model` draw from `rng`, a generator on the model's device."""
    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.rng = rng
