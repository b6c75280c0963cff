"""Batch normalisation with a ReLU after it, for bf16 on a CPU in as few passes as they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 256
"""Numbers side by side in a pass, at most (WRN-28-1's 16 channels: 0.27 ms with 64, 0.13 with 256
or 1,024)."""


class BatchNormReLU(nn.BatchNorm2d):
    """max(0, BN(x)) of x (N, C, H, W). Its parameters and moments are those of BatchNorm2d.

    In bf16 on a CPU with the channels last, two passes forward and two backward take the place of
    torch's seven; moments and parameters' gradients are then as exact as float32 allows.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not _passable(x):
            return F.relu(super().forward(x), inplace=True)
        if self.training:
            mean, var = _moments(x)
            self._track(mean, var, x.numel() // x.shape[1])
        else:
            mean, var = self.running_mean.double().numpy(), self.running_var.double().numpy()
        return _BatchNormReLU.apply(
            x, self.weight, self.bias, mean, 1 / np.sqrt(var + self.eps), self.training
        )

    def _track(self, mean: np.ndarray, var: np.ndarray, size: int) -> None:
        """Move the running moments as BatchNorm2d does, the variance without bias."""
        assert self.momentum is not None
        self.num_batches_tracked += 1
        for running, found in (
            (self.running_mean, mean),
            (self.running_var, var * size / (size - 1)),
        ):
            running.lerp_(torch.from_numpy(found).float(), self.momentum)


class _BatchNormReLU(torch.autograd.Function):
    """max(0, γ·(x - mean)·inverse + β), of which mean and inverse (C,) float64, the reciprocal
    deviation, depend on x if `training`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        mean: np.ndarray,
        inverse: np.ndarray,
        training: bool,
    ) -> torch.Tensor:
        from . import passes

        scale = inverse if weight is None else weight.detach().numpy() * inverse
        shift = -mean * scale if bias is None else bias.detach().numpy() - mean * scale
        out = torch.empty_like(x)
        passes.rectified(_rows(x), scale, shift, _rows(out))
        ctx.save_for_backward(x)
        ctx.constants = scale, shift, mean, inverse, training
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from . import passes

        (x,) = ctx.saved_tensors
        scale, shift, mean, inverse, training = ctx.constants
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        seen = _rows(gradient), _rows(x), scale, shift
        of_bias, products = passes.gradient_sums(*seen, mean)
        of_weight = products * inverse
        # dx = scale·(g - Σg/n - x̂·Σ(g·x̂)/n), x̂ = (x - mean)·inverse, in powers of g, x and 1
        share = scale * (training / (x.numel() // len(mean)))
        slope = -share * inverse * of_weight
        of_input = torch.empty_like(x)
        constant = -share * of_bias - slope * mean
        passes.input_gradient(*seen, slope, constant, _rows(of_input))
        parameters = [
            torch.from_numpy(found).float() if asked else None
            for found, asked in zip((of_weight, of_bias), ctx.needs_input_grad[1:3], strict=True)
        ]
        return of_input, *parameters, None, None, None


def _passable(x: torch.Tensor) -> bool:
    return (
        x.dtype is torch.bfloat16
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > x.shape[1]  # BatchNorm2d refuses a single value a channel
        and not torch.compiler.is_compiling()
    )


def _moments(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance (C,) float64 of each channel."""
    from . import passes

    first = x[0, :, 0, 0].detach().double().numpy()  # near the mean, so that little cancels
    mean, square = passes.moments(_rows(x), first) / (x.numel() // len(first))
    return first + mean, square - mean**2


def _rows(x: torch.Tensor) -> np.ndarray:
    """The bits of x as (M, W) int16, a view; W are the channels of as many pixels as WIDTH has room
    for, a power of two that divides the pixels of an image."""
    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    beside = 1
    while pixels % (2 * beside) == 0 and 2 * beside * channels <= WIDTH:
        beside *= 2
    numbers = x.detach().view(torch.int16).permute(0, 2, 3, 1).numpy()
    return numbers.reshape(-1, beside * channels)
