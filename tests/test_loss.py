"""Losses and their gradients against closed forms in float64, at ordinary and extreme logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from randlabels.loss import (
    CrossEntropy,
    GeneralizedCrossEntropy,
    Loss,
    PartiallyHuberisedCrossEntropy,
    SquaredError,
)

Array = np.ndarray
LOSSES = [
    CrossEntropy(),
    SquaredError(),
    SquaredError(softmax=True),
    GeneralizedCrossEntropy(),
    GeneralizedCrossEntropy(q=1.0),
    GeneralizedCrossEntropy(q=0.01),
    PartiallyHuberisedCrossEntropy(),
    PartiallyHuberisedCrossEntropy(tau=2.0),
]
CASES = {
    "ordinary": 3 * np.random.RandomState(0).randn(60, 7),
    "large": 1e4 * np.sign(np.random.RandomState(1).randn(60, 7)),
    "one large": np.eye(7).repeat(8, 0) * 1e4,
    "equal": np.full((7, 7), 1e4),
}


def closed_form(loss: Loss, logits: Array, labels: Array) -> tuple[Array, Array]:
    """Values (N,) and their gradients (N, K) with respect to the logits."""
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    p, target = np.exp(log_p), np.eye(logits.shape[1])[labels]
    own, log_own = (p * target).sum(1), (log_p * target).sum(1)
    toward = target - p  # the gradient of log own
    match loss:
        case CrossEntropy():
            return -log_own, -toward
        case SquaredError(softmax=False):
            return ((logits - target) ** 2).mean(1), 2 * (logits - target) / logits.shape[1]
        case SquaredError(softmax=True):
            error = p - target
            inner = (error * p).sum(1, keepdims=True)
            return (error**2).mean(1), 2 * p * (error - inner) / logits.shape[1]
        case GeneralizedCrossEntropy(q=q):
            return (1 - own**q) / q, -(own**q)[:, None] * toward
        case PartiallyHuberisedCrossEntropy(tau=tau):
            clipped = own <= 1 / tau
            values = np.where(clipped, -tau * own + np.log(tau) + 1, -log_own)
            return values, np.where(clipped, tau * own, 1.0)[:, None] * -toward
    raise NotImplementedError


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_loss_and_gradient_equal_their_closed_forms(loss: Loss, case: str) -> None:
    labels = np.arange(len(CASES[case])) % 7
    logits = torch.tensor(CASES[case], dtype=torch.float32, requires_grad=True)
    values = loss(logits, torch.tensor(labels))
    values.sum().backward()
    expected, gradient = closed_form(loss, logits.detach().double().numpy(), labels)
    assert values.shape == (len(labels),) and values.dtype == torch.float32
    assert values.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()
    np.testing.assert_allclose(values.detach(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits.grad, gradient, rtol=1e-4, atol=1e-6)


def test_generalized_cross_entropy_lies_between_cross_entropy_and_absolute_error() -> None:
    """Zhang & Sabuncu 2018: q towards 0 is the one, q = 1 half of the other."""
    logits = torch.tensor(CASES["ordinary"])
    labels = torch.arange(len(logits)) % 7
    cross = CrossEntropy()(logits, labels)
    torch.testing.assert_close(
        GeneralizedCrossEntropy(q=1e-9)(logits, labels), cross, rtol=1e-6, atol=1e-6
    )
    one_hot = torch.nn.functional.one_hot(labels, 7)
    absolute = (logits.softmax(1) - one_hot).abs().sum(1)
    torch.testing.assert_close(GeneralizedCrossEntropy(q=1.0)(logits, labels), absolute / 2)


def test_partially_huberised_loss_clips_the_gradient_in_p_at_tau() -> None:
    """Value and slope are continuous at p = 1/tau, and no slope is steeper (Menon et al. 2020)."""
    loss = PartiallyHuberisedCrossEntropy(tau=10.0)
    p = torch.linspace(1e-6, 1 - 1e-6, 9_999, dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], 1)
    values = loss(logits, torch.zeros(len(p), dtype=torch.int64)).numpy()
    slopes = np.diff(values) / np.diff(p)
    assert slopes.min() == pytest.approx(-10, abs=1e-6)
    assert np.all(np.diff(slopes) > -1e-6)  # convex: no jump of either kind
    assert values.max() == pytest.approx(np.log(10) + 1, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_bounded_losses_sum_to_a_near_constant_over_the_labels(seed: int) -> None:
    """Ghosh et al. 2017: the sum is K - 1 for the absolute error, between two bounds for the
    squared error of probabilities, and without bound for the cross-entropy."""
    logits = torch.tensor(10 * np.random.RandomState(seed).randn(1, 7)).repeat(7, 1)
    labels = torch.arange(7)
    assert GeneralizedCrossEntropy(q=1.0)(logits, labels).sum().item() == pytest.approx(6)
    squared = 7 * SquaredError(softmax=True)(logits, labels).sum().item()
    assert 7 - 1 <= squared <= 2 * 7 - 2 + 1e-9
