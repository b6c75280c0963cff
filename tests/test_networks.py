"""All networks: parameter counts, shapes, outputs against NumPy references, initial weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from randlabels.model import Model
from randlabels.model.alexnet import AlexNet, SmallAlexNet
from randlabels.model.inception import Inception, InceptionNoBN, pad_same
from randlabels.model.lenet import LeNet
from randlabels.model.mlp import MLP, Linear
from randlabels.model.resnet18 import ResNet18
from randlabels.model.wrn import WRN

from . import numpy_layers as ref
from .test_models import CIFAR, IMAGES, count_parameters, seeded_rng

PAPER, GREY = (3, 28, 28), (1, 28, 28)
NETWORKS = [Inception(), InceptionNoBN(), AlexNet(), LeNet(), ResNet18()]
NETWORKS += [WRN(depth=10), MLP(), Linear()]


@pytest.mark.parametrize(
    ("model", "image", "classes", "parameters"),
    [
        (WRN(), CIFAR, 10, 369_498),  # the original README's log
        (MLP(), CIFAR, 10, 1_577_984),  # the same log
        (MLP(hidden=[512, 512]), CIFAR, 10, 1_577_984 + 512 * 512),
        (MLP(bias=True), CIFAR, 10, 1_577_984 + 512 + 10),
        (MLP(hidden=[]), CIFAR, 10, 30_720),
        (Linear(), CIFAR, 10, 30_730),
        (WRN(depth=40, widen=2), CIFAR, 10, 2_243_546),  # Zagoruyko & Komodakis, table 3: 2.2M
        (WRN(depth=28, widen=10), CIFAR, 10, 36_479_194),  # same table: 36.5M
        (Inception(), PAPER, 10, 1_649_402),  # Zhang et al. 2017, table 1
        (InceptionNoBN(), PAPER, 10, 1_649_402),
        (AlexNet(), PAPER, 10, 1_387_786),
        (MLP(hidden=[512, 512, 512], bias=True), PAPER, 10, 1_735_178),
        (MLP(hidden=[512], bias=True), PAPER, 10, 1_209_866),
        (Inception(), CIFAR, 10, 1_649_402),  # a mean pool: the same at any size
        (LeNet(), GREY, 10, 156 + 2_416 + 48_120 + 10_164 + 850),  # LeCun et al. 1998 but C3, F7
        (ResNet18(), CIFAR, 10, 11_173_962),
        (ResNet18(), CIFAR, 100, 11_173_962 + 90 * 513),
    ],
    ids=str,
)
def test_parameter_count(model: Model, image: Any, classes: int, parameters: int) -> None:
    assert count_parameters(model.build(image, classes, seeded_rng())) == parameters


def output_shapes(network: nn.Module, layers: list[nn.Module], image: Any) -> list[tuple[int, ...]]:
    """Output shape of each of `layers`, without the batch dimension."""
    found: list[tuple[int, ...]] = []
    for layer in layers:
        layer.register_forward_hook(lambda *call: found.append(tuple(call[-1].shape[1:])))
    network(torch.zeros(2, *image))
    return found


@pytest.mark.parametrize("model", [Inception(), InceptionNoBN()], ids=lambda m: m.name)
def test_inception_stages_have_the_shapes_of_the_paper(model: Model) -> None:
    network = model.build(PAPER, 10, seeded_rng())
    channels = [96, 64, 80, 160, 160, 160, 160, 144, 240, 336, 336]  # figure 3
    sizes = [28, 28, 28, 14, 14, 14, 14, 14, 7, 7, 7]
    expected = [(c, s, s) for c, s in zip(channels, sizes, strict=True)]
    layers = [*network.get_submodule("stages"), network.get_submodule("head")]
    assert output_shapes(network, layers, PAPER) == [*expected, (10,)]


def test_alexnet_stages_halve_as_in_tensorflow() -> None:
    network = AlexNet().build(PAPER, 10, seeded_rng())
    names = ["conv1", "norm", "conv2", "dense1", "dense2", "head"]
    found = output_shapes(network, [network.get_submodule(name) for name in names], PAPER)
    assert found == [(64, 28, 28), (64, 14, 14), (64, 14, 14), (64, 7, 7), (384,), (192,), (10,)]


def test_lenet_stages_have_the_shapes_of_lecun_et_al() -> None:
    network = LeNet().build(GREY, 10, seeded_rng())
    pooled = [layer for layer in network if isinstance(layer, nn.Conv2d | nn.AvgPool2d | nn.Linear)]
    expected = [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120,), (84,), (10,)]
    assert output_shapes(network, pooled, GREY) == expected


def test_resnet_stages_have_the_shapes_for_small_images() -> None:
    network = ResNet18().build(CIFAR, 10, seeded_rng())
    layers = [network.get_submodule("conv"), *network.get_submodule("groups")]
    expected = [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    assert output_shapes(network, layers, CIFAR) == expected


@pytest.mark.parametrize("image", IMAGES, ids=str)
@pytest.mark.parametrize("model", NETWORKS, ids=lambda m: m.name)
def test_every_network_accepts_any_image_size_except_lenet_below_12x12(
    model: Model, image: Any
) -> None:
    if model.name == "lenet" and image == (1, 8, 8):
        with pytest.raises(ValueError, match="model=lenet needs .* 12x12 .* not 8x8; use model="):
            model.build(image, 7, seeded_rng())
    else:
        assert model.build(image, 7, seeded_rng())(torch.zeros(2, *image)).shape == (2, 7)


def test_lenet_accepts_12x12_images() -> None:
    assert LeNet().build((1, 12, 12), 3, seeded_rng())(torch.zeros(2, 1, 12, 12)).shape == (2, 3)
    with pytest.raises(ValueError, match="not 28x11"):
        LeNet().build((1, 28, 11), 3, seeded_rng())


# Outputs


def evaluate_with_random_statistics(
    model: Model, image: tuple[int, int, int]
) -> tuple[Any, torch.Tensor, np.ndarray]:
    """A network in eval mode with random running statistics, its outputs, and two images."""
    network = model.build(image, 10, seeded_rng()).double().eval()
    for name, values in (*network.named_buffers(), *network.named_parameters()):
        if "running" in name or name.endswith("bias"):
            values.data.uniform_(0.5, 1.5, generator=seeded_rng(1))
    x = torch.randn(2, *image, generator=seeded_rng(2), dtype=torch.float64)
    with torch.inference_mode():
        return network, network(x), x.numpy()


def conv_module(x: np.ndarray, layers: nn.Sequential, stride: int = 1) -> np.ndarray:
    """Convolution, batch normalisation if present, and ReLU, in NumPy."""
    x = ref.conv(ref.pad(x, layers[0].kernel_size[0], stride), layers[0], stride)
    return ref.relu(ref.batch_norm(x, layers[1]) if isinstance(layers[1], nn.BatchNorm2d) else x)


@pytest.mark.parametrize("image", [(3, 8, 8), (1, 9, 7)], ids=str)
@pytest.mark.parametrize("model", [Inception(), InceptionNoBN()], ids=lambda m: m.name)
def test_inception_equals_numpy_reference(model: Model, image: Any) -> None:
    network, found, x = evaluate_with_random_statistics(model, image)
    x = conv_module(x, network.stages[0])
    for number, stage in enumerate(network.stages[1:], start=2):
        if number in (4, 9):
            pooled = ref.max_pool(ref.pad(x, 3, 2, -np.inf), 3, 2)
            x = np.concatenate([conv_module(x, stage.conv, 2), pooled], 1)
        else:
            x = np.concatenate([conv_module(x, stage.conv1), conv_module(x, stage.conv3)], 1)
    np.testing.assert_allclose(found, ref.linear(x.mean((2, 3)), network.head), rtol=1e-9)


@pytest.mark.parametrize("image", [(3, 8, 8), (1, 9, 7)], ids=str)
def test_alexnet_equals_numpy_reference(image: Any) -> None:
    network, found, x = evaluate_with_random_statistics(AlexNet(), image)
    for layer in (network.conv1, network.conv2):
        x = ref.relu(ref.conv(ref.pad(x, 5, 1), layer))
        x = ref.max_pool(ref.pad(x, 3, 2, -np.inf), 3, 2)
        x = ref.response_norm(x, radius=4, alpha=0.001 / 9, beta=0.75)
    for layer in (network.dense1, network.dense2):
        x = ref.relu(ref.linear(x.reshape(2, -1), layer))
    np.testing.assert_allclose(found, ref.linear(x, network.head), rtol=1e-9)


def test_lenet_equals_numpy_reference() -> None:
    network, found, x = evaluate_with_random_statistics(LeNet(), (1, 14, 12))
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    x = ref.mean_pool(ref.relu(ref.conv(ref.pad(x, 5, 1), convolutions[0])), 2, 2)
    x = ref.mean_pool(ref.relu(ref.conv(x, convolutions[1])), 2, 2).reshape(2, -1)
    first, second, head = (layer for layer in network if isinstance(layer, nn.Linear))
    x = ref.relu(ref.linear(ref.relu(ref.linear(x, first)), second))
    np.testing.assert_allclose(found, ref.linear(x, head), rtol=1e-9)


def test_resnet_equals_numpy_reference() -> None:
    network, found, x = evaluate_with_random_statistics(ResNet18(), (3, 8, 8))

    def step(x: np.ndarray, conv: nn.Conv2d, norm: nn.BatchNorm2d, stride: int = 1) -> np.ndarray:
        around = 1 if conv.kernel_size == (3, 3) else 0
        x = np.pad(x, [(0, 0), (0, 0), (around, around), (around, around)])
        return ref.batch_norm(ref.conv(x, conv, stride), norm)

    x = ref.relu(step(x, network.conv, network.bn))
    for number, block in enumerate(block for group in network.groups for block in group):
        stride = 2 if number in (2, 4, 6) else 1
        out = ref.relu(step(x, block.conv1, block.bn1, stride))
        skip = step(x, *block.shortcut, stride) if stride == 2 else x
        x = ref.relu(step(out, block.conv2, block.bn2) + skip)
    np.testing.assert_allclose(found, ref.linear(x.mean((2, 3)), network.head), rtol=1e-9)


def test_response_norm_equals_tensorflow_formula() -> None:
    """Activations are in the hundreds, so that the sum of squares outweighs the constant 1."""
    x = 100 * torch.randn(2, 20, 3, 3, generator=seeded_rng(), dtype=torch.float64)
    expected = ref.response_norm(x.numpy(), radius=4, alpha=0.001 / 9, beta=0.75)
    assert abs(expected / x.numpy()).max() < 0.9
    np.testing.assert_allclose(SmallAlexNet((3, 8, 8), 10).norm(x), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [(28, 3, 2, 0, 1), (14, 3, 2, 0, 1), (7, 3, 2, 1, 1), (28, 5, 1, 2, 2), (1, 3, 2, 1, 1)]
    + [(10, 1, 2, 0, 0), (6, 2, 2, 0, 0)],
)
def test_same_padding_equals_tensorflow(
    size: int, kernel: int, stride: int, before: int, after: int
) -> None:
    """Expected values were worked out by hand from the rule in its documentation."""
    out = pad_same(torch.ones(1, 1, size, size), kernel, stride)[0, 0]
    line = [0] * before + [1] * size + [0] * after
    assert out[before].tolist() == line and out[:, before].tolist() == line


# Initial weights


def test_lenet_initial_weights_are_a_truncated_normal() -> None:
    network = LeNet().build((3, 64, 64), 10, seeded_rng())
    weights = max(network.parameters(), key=torch.numel).detach()
    grid = np.linspace(-0.2, 0.2, 20_001)
    density = np.exp(-(grid**2) / 2)
    deviation = math.sqrt((grid**2 * density).sum() / density.sum())
    assert weights.abs().max() <= 0.2
    assert weights.std().item() == pytest.approx(deviation, rel=0.01)
    assert not any(p.any() for name, p in network.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("model", [Inception(), InceptionNoBN(), AlexNet()], ids=lambda m: m.name)
def test_initial_weights_of_the_paper_networks_follow_glorot(model: Model) -> None:
    for layer in model.build(PAPER, 10, seeded_rng()).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_out, fan_in = len(layer.weight), layer.weight[0].numel()
            if isinstance(layer, nn.Conv2d):
                fan_out *= math.prod(layer.kernel_size)
            spread = math.sqrt(2 / (fan_in + fan_out))
            margin = 5 / math.sqrt(2 * layer.weight.numel())  # standard errors of a deviation
            assert layer.weight.std().item() == pytest.approx(spread, rel=margin)
            assert layer.bias is not None and not layer.bias.any()


@pytest.mark.parametrize("model", NETWORKS, ids=lambda m: m.name)
def test_initial_weights_depend_on_the_generator_only(model: Model) -> None:
    torch.manual_seed(1)
    first = model.build(CIFAR, 10, seeded_rng(5)).state_dict()
    torch.manual_seed(2)
    second = model.build(CIFAR, 10, seeded_rng(5)).state_dict()
    other = model.build(CIFAR, 10, seeded_rng(6)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
