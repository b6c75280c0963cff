"""Theorem 1: the network of 2n + d weights that represents any labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from randlabels.model import SolveOptions
from randlabels.model.theorem1 import Theorem1, evaluate, represent

from .conftest import Cli


@pytest.mark.parametrize("n", [1, 2, 100, 1000, 4000, 50_000])
def test_theorem_represents_random_labels_with_2n_plus_d_weights(n: int) -> None:
    rng = torch.Generator().manual_seed(n)
    x = torch.randn(n, 50, generator=rng)
    labels = torch.randint(0, 10, (n,), generator=rng)
    model = Theorem1()
    images, targets = x[:, None, None], [model.encode(labels, 10)]
    fit = model.solve(images, images, targets, rng, SolveOptions())[0]
    assert fit.parameters == 2 * n + 50
    assert (fit.train[:, 0] - labels).abs().max() < 1e-5
    assert torch.equal(model.decode(fit.train), labels)


def test_theorem_is_the_network_of_the_paper() -> None:
    """Thresholds interleave with the images, and the plain sum over the units is the same."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(40, generator=rng, dtype=torch.float64)
    y = torch.randint(0, 10, (40,), generator=rng).double()
    thresholds, weights = represent(x, y)
    order = x.sort().values
    assert (thresholds < order).all() and (thresholds[1:] > order[:-1]).all()
    z = torch.cat([x, torch.linspace(-4, 4, 99, dtype=torch.float64)])
    plain = ((z[:, None] - thresholds).clamp(min=0) * weights).sum(1)
    np.testing.assert_allclose(evaluate(z, thresholds, weights), plain, atol=1e-9)
    np.testing.assert_allclose(evaluate(x, thresholds, weights), y, atol=1e-10)


def test_theorem_refuses_equal_images_by_their_indices() -> None:
    images = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8)
    images[17] = images[5]
    with pytest.raises(ValueError, match="training images 5 and 17 are equal"):
        Theorem1().check(images, 10, 10, SolveOptions())
    with pytest.raises(ArithmeticError, match="have the same projection"):
        represent(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))


def test_theorem_run_counts_its_weights(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("model=theorem1", "dataset=digits", "corrupt=1.0")
    assert outcome.code == 0 and f"Number of parameters: {2 * 1442 + 64}" in outcome.out
    assert "Acc-tr: 100.00" in outcome.out
