"""WRN, MLP and dropout against independent computations; initial weights; refused keys."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from randlabels.config import parse
from randlabels.machine import resources
from randlabels.model.dropout import Dropout, reseed_dropout
from randlabels.model.mlp import MLP, Linear
from randlabels.model.wrn import WRN

CIFAR = (3, 32, 32)
IMAGES = [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 33, 47)]


def seeded_rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def count_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def reference_wrn(x: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """WRN-28-1 of the original code (model_wideresnet.py) from the values of a state_dict."""
    it = iter(weights.values())

    def batch_norm(x: torch.Tensor) -> torch.Tensor:
        scale, shift, mean, var, _ = (next(it) for _ in range(5))
        x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
        return x * scale[:, None, None] + shift[:, None, None]

    x = F.conv2d(x, next(it), padding=1)
    for group in range(3):
        for block in range(4):
            first = block == 0 and group > 0
            stride = 2 if first else 1
            active = torch.relu(batch_norm(x))
            out = F.conv2d(active, next(it), stride=stride, padding=1)
            out = torch.relu(batch_norm(out))
            out = F.conv2d(out, next(it), padding=1)
            x = F.conv2d(active, next(it), stride=stride) + out if first else x + out
    x = torch.relu(batch_norm(x))
    return F.avg_pool2d(x, 8).flatten(1) @ next(it).T + next(it)


def test_wrn_forward_equals_reference() -> None:
    model = WRN().build(CIFAR, 10, seeded_rng()).double().eval()
    for buffer in model.buffers():  # so that running statistics matter
        if buffer.dtype.is_floating_point:
            buffer.uniform_(0.5, 1.5, generator=seeded_rng(1))
    x = torch.randn(4, *CIFAR, generator=seeded_rng(2), dtype=torch.float64)
    with torch.inference_mode():
        expected = reference_wrn(x, dict(model.state_dict()))
        torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


def test_mlp_forward_equals_reference() -> None:
    model = MLP(hidden=[7, 5], bias=True).build((1, 8, 8), 10, seeded_rng()).double()
    w1, b1, w2, b2, w3, b3 = model.state_dict().values()
    x = torch.randn(4, 1, 8, 8, generator=seeded_rng(2), dtype=torch.float64)
    hidden = torch.relu(torch.relu(x.reshape(4, 64) @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(model(x), hidden @ w3.T + b3)


def test_initial_weights_have_the_deviations_of_the_original_code() -> None:
    wide = WRN(widen=4).build(CIFAR, 10, seeded_rng())
    conv = wide.blocks[-1].conv2.weight
    assert conv.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01)
    hidden = MLP().build(CIFAR, 10, seeded_rng())[1].weight
    assert hidden.std().item() == pytest.approx(math.sqrt(2 / (3072 + 512)), rel=0.01)
    assert hidden.mean().abs().item() < 1e-4
    assert wide.head.bias.abs().max() == 0
    assert wide.bn.weight.min() == wide.bn.weight.max() == 1


def test_dropout_scales_repeats_its_masks_and_is_off_in_eval_mode() -> None:
    layer = Dropout(0.25)
    x = torch.ones(200_000)
    reseed_dropout(layer, seeded_rng(3))
    first = layer(x)
    assert first.unique().tolist() == pytest.approx([0, 4 / 3])
    assert first.mean().item() == pytest.approx(1, abs=0.01)
    reseed_dropout(layer, seeded_rng(3))
    assert torch.equal(layer(x), first)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("depth", [4, 9, 27, 29, -2])
def test_wrong_depth_is_refused_with_two_valid_ones(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"model.depth={depth} .* try (\d+) or (\d+)") as error:
        WRN(depth=depth)
    for remedy in str(error.value).split("try ")[1].split(" or "):
        WRN(depth=int(remedy))


@pytest.mark.parametrize(("gains", "precision"), [(True, "bf16"), (False, "fp32")])
def test_own_model_chooses_bf16_by_its_class_attribute(
    gains: bool, precision: str, set_bf16: Callable[[bool], None]
) -> None:
    class Own(Linear):
        bf16_on_cpu: ClassVar[bool] = gains

    set_bf16(True)
    config = dataclasses.replace(parse({"device": "cpu"}), model=Own())
    assert resources.resolve(config, None).precision == precision
