"""Losses: one value per example, from float32 logits whatever the training precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F


class Loss(Protocol):
    """What the program asks of an option of the group `loss`."""

    name: ClassVar[str]

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B,) float32 from logits (B, K) float32 and labels (B,) int64 in [0, K)."""
        ...


@dataclass
class CrossEntropy:
    """-log softmax(logits)[label]; with smoothing s, the target is (1-s)·one-hot + s/K."""

    name: ClassVar[str] = "ce"

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"loss.label_smoothing={self.label_smoothing} must be in 0 to 1")

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.label_smoothing
        )
