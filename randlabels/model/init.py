"""Initial weights: as in the original code (model_wideresnet.py, model_mlp.py), or Glorot's."""

import torch
from torch import nn
from torch.nn.init import kaiming_normal_, xavier_normal_


@torch.no_grad()
def initialize(module: nn.Module, rng: torch.Generator, *, glorot: bool = False) -> nn.Module:
    """Draw all weights of `module` in place, in the order of its layers, and return it.

    Convolutions: N(0, 2/(k²·out)), after He et al. 2015, as in the original code; with `glorot`
    N(0, 2/(k²·(in+out))), after Glorot & Bengio 2010. Linear layers: N(0, 2/(in+out)).
    Biases: 0. Batch normalisation: scale 1, shift 0.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and not glorot:
            kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=rng)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            xavier_normal_(layer.weight, generator=rng)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        bias = getattr(layer, "bias", None)
        if isinstance(bias, torch.Tensor):
            bias.zero_()
    return module
