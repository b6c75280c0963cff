"""Conv2d in bf16 has the gradients that a convolution is defined by."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from randlabels.model import conv
from randlabels.model.conv import Conv2d

ROUNDING = 2**-8
"""Largest relative error of a number rounded to bf16."""

CASES = [  # channels, filters, size, stride; images, height, width
    (16, 16, 3, 1, 3, 8, 8),
    (48, 32, 3, 1, 2, 5, 6),
    (16, 32, 3, 2, 2, 8, 8),
    (16, 16, 3, 2, 2, 9, 7),
    (32, 16, 1, 2, 2, 8, 12),
    (16, 16, 5, 2, 2, 10, 11),
    (16, 48, 3, 2, 2, 8, 32),
    (32, 16, 1, 2, 2, 4, 16),
    (16, 16, 5, 2, 2, 8, 16),
    (16, 32, 3, 3, 2, 6, 24),
    (16, 16, 1, 3, 1, 6, 24),
    (16, 16, 7, 3, 1, 6, 24),
    (16, 16, 7, 1, 2, 4, 4),
    (16, 16, 3, 1, 70, 4, 4),  # more images than are paired at a time
]
multiplies = pytest.mark.skipif(
    not conv._multiplies_pairs(), reason="the processor has no AVX512-BF16, or has AMX"
)


pytestmark = pytest.mark.usefixtures("all_sizes_pass")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


def layer_of(channels: int, filters: int, size: int, stride: int) -> Conv2d:
    """A layer whose weights are bf16 numbers, in float32."""
    layer = Conv2d(channels, filters, size, stride)
    layer.weight.data = numbers(*layer.weight.shape, seed=1).float()
    return layer


def reference_of(layer: Conv2d) -> nn.Conv2d:
    """The same by torch alone, in float64."""
    size, stride = layer.kernel_size[0], layer.stride[0]
    plain = nn.Conv2d(
        layer.in_channels, layer.out_channels, size, stride, padding=size // 2, bias=False
    )
    plain.load_state_dict(layer.state_dict())
    return plain.double()


def passed(
    layer: nn.Conv2d, x: torch.Tensor, slope: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, and gradients with respect to x and weights."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, x.dtype is torch.bfloat16, cache_enabled=False):
        out = layer(x)
    out.backward(slope)
    assert x.grad is not None and layer.weight.grad is not None
    return out.detach(), x.grad, layer.weight.grad


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Up to `tolerance` of each number, and of the largest where terms cancel."""
    largest = float(expected.abs().max())
    torch.testing.assert_close(
        found.double(), expected, rtol=tolerance, atol=tolerance * largest, check_stride=False
    )


@multiplies
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_equal_float64_up_to_rounding(case: tuple[int, ...]) -> None:
    channels, filters, size, stride, images, height, width = case
    layer = layer_of(channels, filters, size, stride)
    x = numbers(images, channels, height, width)
    slope = numbers(*layer(x.float()).shape, seed=2)
    out, of_x, of_weight = passed(layer, x, slope)
    expected = passed(reference_of(layer), x.double(), slope.double())
    assert out.dtype is of_x.dtype is torch.bfloat16 and of_weight.dtype is torch.float32
    close(out, expected[0], ROUNDING)
    close(of_x, expected[1], ROUNDING)
    close(of_weight, expected[2], 1e-6)


@multiplies
def test_what_is_not_a_number_stays_so() -> None:
    layer = layer_of(16, 16, 3, 1)
    slope = numbers(1, 16, 4, 4)
    slope[0, 3, 0, 0] = float("nan")
    _, _, of_weight = passed(layer, numbers(1, 16, 4, 4), slope)
    assert of_weight[3].isnan().any(dim=0)[1:, 1:].all() and not of_weight[:3].isnan().any()


@multiplies
def test_gradients_are_the_same_each_time() -> None:
    layer = layer_of(16, 32, 3, 2)
    x, slope = numbers(9, 16, 32, 32), numbers(9, 32, 16, 16, seed=2)
    first = passed(layer, x, slope)
    layer.weight.grad = None
    for one, other in zip(first, passed(layer, x, slope), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("why", ["channels", "columns", "float32", "processor"])
def test_elsewhere_it_is_torchs_own(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three channels, rows of five pixels, float32, a processor without the instruction."""
    monkeypatch.setattr(conv, "_multiplies_pairs", lambda: why != "processor")
    channels, width = 3 if why == "channels" else 16, 5 if why == "columns" else 4
    layer = layer_of(channels, 16, 3, 1)
    x, slope = numbers(2, channels, 4, width), numbers(2, 16, 4, width, seed=2)
    if why == "float32":
        x, slope = x.float(), slope.float()
    plain = reference_of(layer).float()
    for found, expected in zip(passed(layer, x, slope), passed(plain, x, slope), strict=True):
        assert torch.equal(found, expected)
