"""TensorFlow's SAME padding, which the networks of Zhang et al. 2017 have."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def pad_same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Zeros around images (B, C, H, W) so that a window of `kernel` in steps of `stride` fits
    ceil(H/stride) x ceil(W/stride) times.

    As TensorFlow does, an odd number of zeros puts the larger half below and to the right: a
    3x3 window in steps of 2 starts at pixel 0 of a 28x28 image, not at -1. Zeros serve a
    maximum too where the images come from a ReLU.
    """
    padding = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)
