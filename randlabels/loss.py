"""Losses: one value per example, from float32 logits in every training precision."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .schema import PROBABILITY, Option


class Loss(Option):
    """Base class of the group `loss`."""

    @abstractmethod
    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return (B,) float32 from logits (B, K) float32 and labels (B,) int64 in [0, K)."""


@dataclass
class CrossEntropy(Loss):
    """-log softmax(logits)[label]; with smoothing s, the target is (1-s)·one-hot + s/K."""

    name = "ce"
    rules = {"label_smoothing": PROBABILITY}

    label_smoothing: float = 0.0

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.label_smoothing
        )


@dataclass
class SquaredError(Loss):
    """Mean over the K classes of (output - one-hot)².

    The outputs are the logits, as in the least-squares fits of Zhang et al. 2017 (section 5) and
    of networks by Hui & Belkin 2021. With `softmax` they are the probabilities, whose sum of
    squares Ghosh et al. 2017 show to be robust to label noise. The mean is that sum over K.
    """

    name = "mse"

    softmax: bool = False

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        outputs = logits.softmax(1) if self.softmax else logits
        target = F.one_hot(labels, logits.shape[1]).to(outputs.dtype)
        return (outputs - target).square().mean(1)


@dataclass
class GeneralizedCrossEntropy(Loss):
    """(1 - p^q) / q with p = softmax(logits)[label].

    q = 1 is half the mean absolute error; towards q = 0 it becomes the cross-entropy.
    Source: Zhang & Sabuncu 2018, equation 6, without their truncation, and q = 0.7 throughout.
    """

    name = "gce"
    rules = {"q": (lambda q: 0 < q <= 1, "above 0 to 1; for its limit 0, use loss=ce")}

    q: float = 0.7

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return -torch.expm1(self.q * _log_p(logits, labels)) / self.q


@dataclass
class PartiallyHuberisedCrossEntropy(Loss):
    """-log p where p = softmax(logits)[label] is above 1/tau, else its tangent there,
    -tau·p + log(tau) + 1.

    Source: Menon et al. 2020, equation 11. tau = 10 is theirs on MNIST and CIFAR-100; on CIFAR-10
    they take 2.
    """

    name = "phuber_ce"
    rules = {"tau": (lambda tau: 1 < tau < math.inf, "above 1; for no clipping, use loss=ce")}

    tau: float = 10.0

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        log_p = _log_p(logits, labels)
        log_tau = math.log(self.tau)
        return torch.where(log_p > -log_tau, -log_p, log_tau + 1 - self.tau * log_p.exp())


def _log_p(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[label], (B,), finite where p itself underflows."""
    return -F.cross_entropy(logits, labels, reduction="none")
