"""Features of the exact fits against their formulas in NumPy: random convolutions, Gabor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from randlabels.kernels import features, system
from randlabels.kernels.cholesky import Triangle
from randlabels.model import SolveOptions
from randlabels.model.kernel import Kernel


@pytest.fixture
def conv_features(small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> features.ConvFeatures:
    """70 training and 20 test images, 30 filters in two pieces."""
    monkeypatch.setattr(features, "FILTERS_AT_ONCE", 16)
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(90, 3, 12, 12, generator=rng)
    return features.ConvFeatures(images[:70], images[70:], (30, 4, 2, 0.5), rng, lambda: None)


def test_random_convolutional_features_are_their_formula(
    conv_features: features.ConvFeatures,
) -> None:
    """Positions are 5 x 5, so that quadrants are 3 x 3 and share the middle."""
    images = torch.rand(90, 3, 12, 12, generator=torch.Generator().manual_seed(0)).double().numpy()
    filters = conv_features.filters.double().numpy()
    whitening, offset = (
        part.double().numpy() for part in (conv_features.whitening, conv_features.offset)
    )
    features = []
    for image in images:
        active = np.zeros((5, 5, 30))
        for i in range(5):
            for j in range(5):
                patch = image[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4].flatten()
                patch = (patch - patch.mean()) / np.sqrt(patch.var() + 10 / 255**2)
                patch = np.append(patch @ whitening - offset, 1.0)
                active[i, j] = (filters @ patch).clip(min=0)
        halves = (slice(3), slice(2, None))
        means = [active[a, b].mean((0, 1)) for a in halves for b in halves]
        # filters come in two pieces, each with its quadrants
        pieces = [np.array(means)[:, part].T for part in (slice(16), slice(16, None))]
        features.append(np.concatenate([piece.flatten() for piece in pieces]))
    phi = np.array(features)
    known = phi[:70]  # all of them, fewer than STATISTICS_IMAGES
    expected = (20 * (phi - known.mean(0)) / known.std(0)).clip(-127, 127)
    codes = torch.cat([conv_features.train, conv_features.test]).double().numpy()
    assert np.abs(codes - expected).max() < 3  # of 20 in a deviation; bfloat16 keeps 8 bits
    assert np.abs(codes - expected).mean() < 0.5


def test_random_convolutional_kernel_is_exact(conv_features: features.ConvFeatures) -> None:
    x, z = (c.numpy().astype(np.float64) for c in (conv_features.train, conv_features.test))
    inner, cross = x @ x.T / (400 * 120) + 0.01, z @ x.T / (400 * 120) + 0.01
    beaten: list[None] = []
    equations = system.ConvSystem(conv_features, 0.25, lambda: beaten.append(None))
    tile = equations.tile(slice(5, 70), slice(0, 40))
    np.testing.assert_allclose(tile, inner[5:, :40], rtol=1e-13, atol=1e-13)
    a = torch.randn(2, 70, dtype=torch.float64)
    np.testing.assert_allclose(equations.outputs(a), a.numpy() @ inner, rtol=1e-12, atol=1e-12)
    assert len(beaten) == 2 + 2, "two blocks of images for the weights, two for the outputs"
    found = equations.predictions(a)
    np.testing.assert_allclose(found, a.numpy() @ cross.T, rtol=1e-12, atol=1e-12)
    factor = Triangle(70, torch.float32)
    factor.fill(equations.tile, equations.ridge)
    factor.factorise()
    (solution,) = system.solutions(equations, factor, [a.T])
    exact = np.linalg.solve(inner + 0.25 * np.eye(70), a.numpy().T)
    np.testing.assert_allclose(solution.test, cross @ exact, atol=1e-5)


@pytest.mark.parametrize("terms", [1, system.EXACT_TERMS, 3 * system.EXACT_TERMS + 5])
def test_integer_product_is_exact_for_random_and_for_extreme_numbers(terms: int) -> None:
    rng = np.random.default_rng(terms)
    a, b = (rng.integers(-128, 128, (rows, terms), dtype=np.int8) for rows in (9, 7))
    a[0] = b[0] = -128
    a[1] = 127
    found = system.integer_product(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_array_equal(found, a.astype(np.int64) @ b.T.astype(np.int64))


@pytest.mark.parametrize("beats", [1, 22])
def test_random_convolutional_fit_can_be_stopped_before_the_factorisation(beats: int) -> None:
    """It stops at the first images, and in K; the 42 images come two at a time."""
    beaten = 0

    def tick(share: float) -> None:
        nonlocal beaten
        assert share == 0.0
        beaten += 1
        if beaten == beats:
            raise KeyboardInterrupt

    images = torch.rand(42, 3, 32, 32)
    model = Kernel(kernel="linear", features="random_conv", filters=4)
    arguments = images[:40], images[40:], [torch.randn(40, 2, dtype=torch.float64)]
    options = SolveOptions(torch.float64, tick=tick)
    with pytest.raises(KeyboardInterrupt):
        model.solve(*arguments, torch.Generator(), options)
    assert beaten == beats


def test_memory_of_random_convolutional_features_is_foreseen() -> None:
    """Table 3: 60,000 rows of 128,000 codes, half of K in float32, and the images."""
    model = Kernel(kernel="linear", features="random_conv")
    images = torch.empty(1, dtype=torch.uint8).expand(50_000, 3, 32, 32)
    needed = model.check(images, 10_000, 10, SolveOptions(torch.float32))
    codes, half = 60_000 * 128_000, 50_000**2 / 2 * 4
    assert codes + half < needed < 1.15 * (codes + half) and needed < 18 * 2**30


def test_gabor_filters_ignore_brightness_and_distinguish_orientations() -> None:
    filters = features.gabor_filters(4, 4.0)
    assert filters.sum((1, 2)).abs().max() < 1e-6
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    for k in range(4):
        angle = math.pi * k / 4
        grating = torch.cos(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / 4)
        found = features.gabor(grating[None, None], 4, [4.0], 28).view(4)
        assert int(found.argmax()) == k and found[k] > 2 * found[(k + 1) % 4]
