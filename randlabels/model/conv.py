"""Convolution with gradients of our own, for bf16 on a CPU that multiplies it."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ._vectors import COLUMNS, LANES, ROWS
from .norm import bits, passable


class Conv2d(nn.Conv2d):
    """Convolution without bias, padded by half of its odd size. Its parameters are nn.Conv2d's.

    Where numbers of channels fill whole vectors of the processor, `_products` makes the gradient of
    the weights, in float32, and `_strided` that of an input in strides. oneDNN takes longer for
    both, and rounds the first to bf16.
    """

    def __init__(self, channels: int, filters: int, size: int, stride: int = 1) -> None:
        super().__init__(channels, filters, size, stride, padding=size // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if passable(x) and self._fills_vectors(x.shape[3]) and _multiplies_pairs():
            return _Convolution.apply(x, self.weight, self.stride[0])
        return super().forward(x)

    def _fills_vectors(self, width: int) -> bool:
        columns = (width - 1) // self.stride[0] + 1
        return self.in_channels % LANES == self.out_channels % LANES == columns % 2 == 0


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
        narrow = weight.to(x.dtype)
        ctx.save_for_backward(x, narrow)
        ctx.stride, ctx.dtype = stride, weight.dtype
        return F.conv2d(x, narrow, None, stride, weight.shape[2] // 2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from . import _products as products

        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        size, of_x, of_weight = weight.shape[2], None, None
        if ctx.needs_input_grad[0]:
            of_x = _input_gradient(gradient, x, weight, ctx.stride)
        if ctx.needs_input_grad[1]:
            sums = products.weight_gradient(bits(x), bits(gradient), size, ctx.stride)
            of_weight = torch.from_numpy(sums).permute(3, 2, 0, 1).to(ctx.dtype)
        return of_x, of_weight, None


def _input_gradient(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int
) -> torch.Tensor:
    rows, columns = gradient.shape[2:]
    tiled = rows % ROWS == columns % COLUMNS == 0
    if stride > 1 and tiled and x.shape[2:] == (stride * rows, stride * columns):
        from . import _strided as strided

        result = torch.empty_like(x)
        taps = weight.contiguous(memory_format=torch.channels_last)
        strided.input_gradient(bits(gradient), bits(taps), stride, bits(result))
        return result
    steps, fixed = ([stride] * 2, [weight.shape[2] // 2] * 2, [1, 1]), (False, [0, 0], 1)
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, *steps, *fixed, [True, False, False]
    )[0]


@cache
def _multiplies_pairs() -> bool:
    """The processor has AVX512-BF16, and not AMX, which oneDNN is faster with."""
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
