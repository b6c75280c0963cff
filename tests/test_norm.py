"""BatchNormReLU's passes in bf16 compute what batch normalisation and ReLU are defined as."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from randlabels.model import norm
from randlabels.model.norm import BatchNormReLU

ROUNDING = 2**-8
"""Largest relative error of a number rounded to bf16."""

SHAPES = [(8, 16, 8, 8), (1, 48, 7, 7), (3, 3, 5, 5), (5, 300, 2, 2)]


pytestmark = pytest.mark.usefixtures("all_sizes_pass")


def pair(channels: int, affine: bool = True) -> tuple[BatchNormReLU, nn.BatchNorm2d]:
    """A layer, and BatchNorm2d in float64 with the same content."""
    rng = torch.Generator().manual_seed(1)
    layer = BatchNormReLU(channels, affine=affine)
    for tensor in layer.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(channels, generator=rng) + 0.5)
    reference = nn.BatchNorm2d(channels, affine=affine)
    reference.load_state_dict(layer.state_dict())
    return layer, reference.double()


def activations(shape: tuple[int, ...], mean: float = 0.5, seed: int = 0) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + mean
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


def passed(
    layer: nn.Module, x: torch.Tensor, slope: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and gradient with respect to x."""
    x = x.clone().requires_grad_()
    out = layer(x)
    out.backward(slope)
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bf16_equals_float64_up_to_rounding(
    shape: tuple[int, ...], affine: bool, training: bool
) -> None:
    layer, reference = pair(shape[1], affine)
    layer.train(training), reference.train(training)
    x, slope = activations(shape), activations(shape, seed=1)
    expected_out, expected_gradient = passed(
        nn.Sequential(reference, nn.ReLU()), x.double(), slope.double()
    )
    out, gradient = passed(layer, x, slope)
    assert out.dtype is gradient.dtype is torch.bfloat16
    torch.testing.assert_close(out.double(), expected_out, rtol=ROUNDING, atol=1e-6)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=ROUNDING, atol=1e-5)
    for name, value in reference.state_dict().items():
        found = layer.state_dict()[name]
        torch.testing.assert_close(found.to(value.dtype), value, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(layer.parameters(), reference.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("used", ["both", "out", "total"])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_a_sum_and_its_normalisation_equal_float64_up_to_rounding(
    shape: tuple[int, ...], used: str, training: bool
) -> None:
    """As if torch had added the bf16 numbers first, with the gradient of whichever is used."""
    layer, reference = pair(shape[1])
    layer.train(training), reference.train(training)
    x, skip = (activations(shape, seed=seed).requires_grad_() for seed in (0, 1))
    exact = (x + skip).detach().double().requires_grad_()
    expected = {"out": F.relu(reference(exact)), "total": exact}
    found = dict(zip(expected, layer.of_sum(x.clone(), skip), strict=True))
    slopes = {name: activations(shape, seed=2 + i) for i, name in enumerate(expected)}
    for name in expected:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=ROUNDING, atol=1e-6)
        if used not in (name, "both"):
            del slopes[name]
    torch.autograd.backward([found[name] for name in slopes], list(slopes.values()))
    torch.autograd.backward(
        [expected[name] for name in slopes], [slope.double() for slope in slopes.values()]
    )
    assert torch.equal(found["total"], x + skip)
    for term in (x, skip):
        assert term.grad is not None and exact.grad is not None
        torch.testing.assert_close(term.grad.double(), exact.grad, rtol=ROUNDING, atol=1e-5)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(
            layer.state_dict()[name].to(value.dtype), value, rtol=1e-6, atol=1e-6
        )


def test_a_large_mean_costs_no_digits_of_the_variance() -> None:
    x = activations((8, 16, 16, 16), mean=200.0)
    layer, reference = pair(16)
    layer(x), reference(x.double())
    torch.testing.assert_close(layer.running_var.double(), reference.running_var, rtol=1e-5, atol=0)


def test_sums_over_all_rows_count_the_last_ones() -> None:
    """As many pixels as fill no whole number of blocks."""
    x = torch.zeros(3, 16, 20, 20, dtype=torch.bfloat16).contiguous(
        memory_format=torch.channels_last
    )
    x[-1, :, -1, -1] = 1200.0
    layer, _ = pair(16)
    before = layer.running_mean.clone()
    layer(x)
    torch.testing.assert_close(layer.running_mean, 0.9 * before + 0.1 * torch.ones(16))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_is_not_a_number_stays_so(training: bool, sign: float) -> None:
    layer, _ = pair(16)
    layer.train(training)
    x = activations((2, 16, 4, 4))
    x[0, 3, 0, 0] = sign * float("nan")
    assert layer(x)[0, 3, 0, 0].isnan()


def test_float32_is_torchs_own() -> None:
    layer, _ = pair(16)
    plain = nn.BatchNorm2d(16)
    plain.load_state_dict(layer.state_dict())
    x = activations((4, 16, 4, 4)).float()
    assert torch.equal(layer(x), F.relu(plain(x)))
    out, total = layer.of_sum(x.clone(), x + 1)
    assert torch.equal(total, x + (x + 1)) and torch.equal(out, F.relu(plain(total)))
    assert torch.equal(layer.running_var, plain.running_var)


def test_small_activations_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "WORTH", 2**16)
    layer, plain = BatchNormReLU(16), nn.BatchNorm2d(16)
    for images, same in ((8, True), (64, False)):  # 2^13 and 2^16 numbers
        found, expected = (
            passed(each, activations((images, 16, 8, 8)), activations((images, 16, 8, 8), seed=1))
            for each in (layer, nn.Sequential(plain, nn.ReLU()))
        )
        assert torch.equal(found[1], expected[1]) == same
