"""TensorFlow's SAME padding, used by the networks of Zhang et al. 2017."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def pad_same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Pad images (B, C, H, W) with zeros so that a window of size `kernel` with stride `stride`
    fits ceil(H/stride) x ceil(W/stride) times.

    Where the number of zeros is odd, the larger half goes below and to the right, as in
    TensorFlow: a 3x3 window with stride 2 starts at pixel 0 of a 28x28 image, not at -1. Zeros
    also suit max-pooling if the images come from a ReLU.
    """
    padding = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)
