"""The original code's initial weights (model_wideresnet.py, model_mlp.py)."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def initialize(module: nn.Module, rng: torch.Generator) -> nn.Module:
    """Draw all weights of `module` in place, in the order of its layers, and return it.

    Convolutions: N(0, 2/(k²·out)). Linear layers: N(0, 2/(in+out)). Biases: 0.
    Batch normalisation: scale 1, shift 0.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels
            layer.weight.normal_(0.0, math.sqrt(2.0 / fan_out), generator=rng)
        elif isinstance(layer, nn.Linear):
            fan = layer.in_features + layer.out_features
            layer.weight.normal_(0.0, math.sqrt(2.0 / fan), generator=rng)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        bias = getattr(layer, "bias", None)
        if isinstance(bias, torch.Tensor):
            bias.zero_()
    return module
