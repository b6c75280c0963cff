"""How often each value occurs in stored images."""

from __future__ import annotations

import torch


def histogram(images: torch.Tensor) -> torch.Tensor:
    """Counts (C, 256) int64 of the values 0..255 in each channel of images (N, C, H, W) uint8."""
    channels = images.unbind(1)
    return torch.stack([torch.bincount(each.flatten(), minlength=256) for each in channels])
