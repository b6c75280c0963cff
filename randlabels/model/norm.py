"""Batch normalisation with a ReLU after it, for bf16 on a CPU in as few passes as they need."""

from __future__ import annotations

from functools import cache
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 256
"""Numbers side by side in a pass, at most (WRN-28-1's 16 channels: 0.27 ms with 64, 0.13 with 256
or 1,024)."""

WORTH = 2**16
"""Numbers from which on a pass is worth its call (forward and backward, microseconds, ours and
torch's: 32·16·8·8 numbers 135 and 94, 128·16·8·8 194 and 252)."""


class BatchNormReLU(nn.BatchNorm2d):
    """max(0, BN(x)) of x (N, C, H, W). Its parameters and moments are those of BatchNorm2d.

    In bf16 on a CPU with the channels last, two passes forward and two backward take the place of
    torch's seven; moments and parameters' gradients are then as exact as float32 allows.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.of_sum(x, None)[0]

    def of_sum(
        self, x: torch.Tensor, skip: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """max(0, BN(x + skip)) and x + skip, in the place of x; of x alone where `skip` is None."""
        if passable(x) and (skip is None or passable(skip)):
            out, total = _BatchNormReLU.apply(x, skip, self.weight, self.bias, self)
            return out, x if skip is None else total
        total = x if skip is None else x.add_(skip)
        return F.relu(super().forward(total), inplace=True), total

    def track(self, mean: np.ndarray, var: np.ndarray, size: int) -> None:
        """Move the running moments as BatchNorm2d does, the variance without bias."""
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        for running, found in (
            (self.running_mean, mean),
            (self.running_var, var * size / (size - 1)),
        ):
            values = running.numpy()  # a view
            values += self.momentum * (found - values)


class _BatchNormReLU(torch.autograd.Function):
    """max(0, γ·(t - mean)·inverse + β) of t = x + skip, and t in the place of x; of x, and None,
    where skip is None.

    mean and inverse (C,) float64, the reciprocal deviation, depend on t in training.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        skip: torch.Tensor | None,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        layer: BatchNormReLU,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        from . import _passes as passes

        total = None if skip is None else x
        if total is not None:
            ctx.mark_dirty(total)
        if layer.training:
            mean, var = _moments(x, skip)
            layer.track(mean, var, x.numel() // x.shape[1])
            skip = None  # it is in x now
        else:
            mean, var = layer.running_mean.double().numpy(), layer.running_var.double().numpy()
        inverse = 1 / np.sqrt(var + layer.eps)
        scale = inverse if weight is None else weight.detach().numpy() * inverse
        shift = -mean * scale if bias is None else bias.detach().numpy() - mean * scale
        out = torch.empty_like(x)
        passes.rectified(_rows(x), _rows(skip), scale, shift, _rows(out))
        ctx.save_for_backward(x)
        ctx.set_materialize_grads(False)
        ctx.constants = scale, shift, mean, inverse, layer.training
        return out, total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        from . import _passes as passes

        (total,) = ctx.saved_tensors
        scale, shift, mean, inverse, training = ctx.constants
        of_out, of_total = (
            None if each is None else each.contiguous(memory_format=torch.channels_last)
            for each in gradients
        )
        if of_out is None:  # only the sum was used
            return of_total, of_total, None, None, None
        seen = _rows(total), scale, shift
        of_bias, products = passes.gradient_sums(_rows(of_out), *seen, mean)
        of_weight = products * inverse
        # dt = scale·(g - Σg/n - t̂·Σ(g·t̂)/n), t̂ = (t - mean)·inverse, in powers of g, t and 1
        share = scale * (training / (total.numel() // len(mean)))
        slope = -share * inverse * of_weight
        constant = -share * of_bias - slope * mean
        result = torch.empty_like(total)
        passes.input_gradient(_rows(of_out), _rows(of_total), *seen, slope, constant, _rows(result))
        parameters = [
            torch.from_numpy(found).float() if asked else None
            for found, asked in zip((of_weight, of_bias), ctx.needs_input_grad[2:4], strict=True)
        ]
        return result, result if ctx.needs_input_grad[1] else None, *parameters, None


def passable(x: torch.Tensor) -> bool:
    """These are activations for passes of ours, which run on one thread."""
    return (
        not torch.compiler.is_compiling()  # first: the next question would cut the graph in two
        and torch.get_num_threads() == 1
        and x.dtype is torch.bfloat16
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() >= max(WORTH, 2 * x.shape[1])  # BatchNorm2d refuses one value a channel
    )


def bits(x: torch.Tensor) -> np.ndarray:
    """(N, C, H, W) bf16 with the channels last as the int16 of its bits, (N, H, W, C), a view."""
    return x.detach().view(torch.int16).permute(0, 2, 3, 1).numpy()


def _moments(x: torch.Tensor, skip: torch.Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance (C,) float64 of each channel, once `skip` is added to x."""
    from . import _passes as passes

    shift = x[0, :, 0, 0].detach().double().numpy()  # near the mean, so that little cancels
    if skip is not None:
        shift = shift + skip[0, :, 0, 0].detach().double().numpy()
    sums = passes.moments(_rows(x), _rows(skip), shift)
    mean, square = sums / (x.numel() // len(shift))
    return shift + mean, square - mean**2


@overload
def _rows(x: torch.Tensor) -> np.ndarray: ...
@overload
def _rows(x: None) -> None: ...
def _rows(x: torch.Tensor | None) -> np.ndarray | None:
    """The bits of x as (M, W) int16, a view; W are the channels of as many pixels as WIDTH has room
    for, a power of two that divides the pixels of an image. None of None."""
    if x is None:
        return None
    return bits(x).reshape(-1, _width(x.shape[1], x.shape[2] * x.shape[3]))


@cache
def _width(channels: int, pixels: int) -> int:
    beside = 1
    while pixels % (2 * beside) == 0 and 2 * beside * channels <= WIDTH:
        beside *= 2
    return beside * channels
