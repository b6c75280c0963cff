"""Augmentation of training batches, drawn anew for every image in every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch


class Augment(Protocol):
    """What the program asks of an option of the group `augment`."""

    name: ClassVar[str]

    def __call__(self, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """(B, C, H, W) float32 from images of the same shape; draws come from `rng`."""
        ...


@dataclass
class Unchanged:
    """No augmentation, as in all experiments of the original code."""

    name: ClassVar[str] = "none"

    def __call__(self, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        return images
