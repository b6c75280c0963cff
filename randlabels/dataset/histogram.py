"""Exact means and deviations of stored images, by counting their values."""

from __future__ import annotations

import numpy as np
import torch


def histogram(images: torch.Tensor) -> np.ndarray:
    """Return counts (C, 256) int64 of the values 0..255 in each channel of uint8 (N, C, H, W)."""
    channels = images.unbind(1)
    return np.stack([torch.bincount(each.flatten(), minlength=256).numpy() for each in channels])


def moments(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and population standard deviation of each row of `counts` (C, 256).

    Each (C,) float64 in pixel units 0..255, exact up to rounding for any number of images.
    """
    levels = np.arange(256)
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ levels
    return mean, np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0))
