"""Preprocessing: from stored pixels (uint8, 0..255) to what the model sees (float32)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

Moments = tuple[torch.Tensor, torch.Tensor]
"""Channel means and standard deviations, each (C,) float32 in pixel units 0..255."""


class Preprocess(Protocol):
    """What the program asks of an option of the group `preprocess`."""

    name: ClassVar[str]

    def __call__(self, images: torch.Tensor, moments: Moments) -> torch.Tensor:
        """(B, C, H, W) float32 from float32 `images` in 0..255, which it may overwrite."""
        ...


@dataclass
class Standardize:
    """(x - mean) / deviation, by channel, with the moments of `randlabels.data.Data`."""

    name: ClassVar[str] = "standardize"

    def __call__(self, images: torch.Tensor, moments: Moments) -> torch.Tensor:
        mean, deviation = (m[:, None, None] for m in moments)
        return images.sub_(mean).div_(deviation)


@dataclass
class Scale:
    """x / 255, in 0..1."""

    name: ClassVar[str] = "scale"

    def __call__(self, images: torch.Tensor, moments: Moments) -> torch.Tensor:
        return images.div_(255.0)


@dataclass
class Unchanged:
    """x as it is stored, in 0..255."""

    name: ClassVar[str] = "none"

    def __call__(self, images: torch.Tensor, moments: Moments) -> torch.Tensor:
        return images
