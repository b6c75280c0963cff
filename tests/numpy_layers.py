"""Layers in NumPy and float64, as references for the models."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch import nn

Array = np.ndarray


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Numbers of entries that TensorFlow's SAME padding adds before and after `size` entries."""
    outputs = -(-size // stride)
    missing = max((outputs - 1) * stride + kernel - size, 0)
    return missing // 2, missing - missing // 2


def pad(x: Array, kernel: int, stride: int, value: float = 0.0) -> Array:
    """Apply SAME padding with `value` to images (B, C, H, W)."""
    around = [same_padding(size, kernel, stride) for size in x.shape[2:]]
    return np.pad(x, [(0, 0), (0, 0), *around], constant_values=value)


def windows(x: Array, kernel: int, stride: int) -> Iterator[tuple[int, int, Array]]:
    """Yield row, column and content (B, C, kernel, kernel) of each window inside x."""
    for i, top in enumerate(range(0, x.shape[2] - kernel + 1, stride)):
        for j, left in enumerate(range(0, x.shape[3] - kernel + 1, stride)):
            yield i, j, x[:, :, top : top + kernel, left : left + kernel]


def slide(x: Array, kernel: int, stride: int, channels: int, apply: Callable) -> Array:
    """Apply a function to each window; returns (B, `channels`, H', W')."""
    rows, columns = ((n - kernel) // stride + 1 for n in x.shape[2:])
    out = np.full((len(x), channels, rows, columns), np.nan)
    for i, j, window in windows(x, kernel, stride):
        out[:, :, i, j] = apply(window)
    return out


def conv(x: Array, layer: nn.Conv2d, stride: int = 1) -> Array:
    """Convolve padded images with the weights of a layer."""
    weight = layer.weight.detach().numpy().astype(np.float64)
    bias = 0.0 if layer.bias is None else layer.bias.detach().numpy().astype(np.float64)

    def apply(window: Array) -> Array:
        return window.reshape(len(window), -1) @ weight.reshape(len(weight), -1).T + bias

    return slide(x, weight.shape[2], stride, len(weight), apply)


def max_pool(x: Array, kernel: int, stride: int) -> Array:
    return slide(x, kernel, stride, x.shape[1], lambda window: window.max((2, 3)))


def mean_pool(x: Array, kernel: int, stride: int) -> Array:
    return slide(x, kernel, stride, x.shape[1], lambda window: window.mean((2, 3)))


def batch_norm(x: Array, layer: nn.BatchNorm2d) -> Array:
    """Normalise with the running statistics, as in eval mode; epsilon 1e-5."""

    def shaped(values: object) -> Array:
        return np.asarray(values, dtype=np.float64)[:, None, None]

    assert layer.running_mean is not None and layer.running_var is not None
    x = (x - shaped(layer.running_mean)) / np.sqrt(shaped(layer.running_var) + 1e-5)
    if layer.affine:
        x = x * shaped(layer.weight.detach()) + shaped(layer.bias.detach())
    return x


def response_norm(x: Array, radius: int, alpha: float, beta: float) -> Array:
    """TensorFlow's: x / (1 + alpha · sum of x² over `radius` channels on either side) ** beta."""
    out = np.empty_like(x)
    for c in range(x.shape[1]):
        near = x[:, max(c - radius, 0) : c + radius + 1]
        out[:, c] = x[:, c] / (1.0 + alpha * (near**2).sum(1)) ** beta
    return out


def linear(x: Array, layer: nn.Linear) -> Array:
    weight, bias = (p.detach().numpy().astype(np.float64) for p in (layer.weight, layer.bias))
    return x @ weight.T + bias


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)
