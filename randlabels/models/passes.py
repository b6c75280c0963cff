"""Passes over bf16 activations in a CPU's memory, each of which reads and writes them once.

Activations come as the int16 of their bits, (M, W): W numbers, some pixels' C channels side by
side, fill whole vectors of the processor. Arithmetic is in float32, sums of rows in float64, and
NaN stays NaN. numba compiles the passes at their first use on a machine and keeps the result
beside this file, or in the user's cache.
"""

from __future__ import annotations

import numpy as np
from numba import njit

ROWS = 64
"""Rows summed in float32 before they are added to a float64 sum."""

# multiplications and additions may be contracted; nothing that would lose NaN or reorder sums
compiled = njit(cache=True, fastmath={"contract"}, error_model="numpy")


@compiled
def moments(x: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Σ (x - shift) and Σ (x - shift)² of each channel, (2, C) float64; shift (C,) float64."""
    rows, width = x.shape
    value, shifts = np.empty(width, np.float32), _beside(shift, width)
    bits = value.view(np.uint32)
    sums = np.zeros((2, width))
    for first in range(0, rows, ROWS):
        total, squares = np.zeros(width, np.float32), np.zeros(width, np.float32)
        for i in range(first, min(first + ROWS, rows)):
            for j in range(width):
                bits[j] = np.uint32(x[i, j]) << np.uint32(16)
            for j in range(width):
                centred = value[j] - shifts[j]
                total[j] += centred
                squares[j] += centred * centred
        for j in range(width):
            sums[0, j] += total[j]
            sums[1, j] += squares[j]
    return _together(sums, len(shift))


@compiled
def rectified(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
    """out = max(0, scale·x + shift); scale and shift (C,) float64."""
    rows, width = x.shape
    value = np.empty(width, np.float32)
    bits = value.view(np.uint32)
    scales, shifts = _beside(scale, width), _beside(shift, width)
    for i in range(rows):
        for j in range(width):
            bits[j] = np.uint32(x[i, j]) << np.uint32(16)
        for j in range(width):
            y = value[j] * scales[j] + shifts[j]
            value[j] = np.float32(0) if y <= 0 else y
        for j in range(width):
            out[i, j] = _rounded(bits[j])


@compiled
def gradient_sums(
    gradient: np.ndarray, x: np.ndarray, scale: np.ndarray, shift: np.ndarray, mean: np.ndarray
) -> np.ndarray:
    """Σ g and Σ g·(x - mean) of each channel, (2, C) float64, with g the gradient where
    scale·x + shift > 0 and 0 elsewhere; constants (C,) float64."""
    rows, width = x.shape
    value, slope = np.empty(width, np.float32), np.empty(width, np.float32)
    bits, slope_bits = value.view(np.uint32), slope.view(np.uint32)
    scales, shifts, means = _beside(scale, width), _beside(shift, width), _beside(mean, width)
    sums = np.zeros((2, width))
    for first in range(0, rows, ROWS):
        total, products = np.zeros(width, np.float32), np.zeros(width, np.float32)
        for i in range(first, min(first + ROWS, rows)):
            for j in range(width):
                bits[j] = np.uint32(x[i, j]) << np.uint32(16)
                slope_bits[j] = np.uint32(gradient[i, j]) << np.uint32(16)
            for j in range(width):
                g = slope[j] if value[j] * scales[j] + shifts[j] > 0 else np.float32(0)
                total[j] += g
                products[j] += g * (value[j] - means[j])
        for j in range(width):
            sums[0, j] += total[j]
            sums[1, j] += products[j]
    return _together(sums, len(mean))


@compiled
def input_gradient(
    gradient: np.ndarray,
    x: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    slope: np.ndarray,
    constant: np.ndarray,
    result: np.ndarray,
) -> None:
    """result = scale·g + slope·x + constant, with g as above; constants (C,) float64."""
    rows, width = x.shape
    value, steep = np.empty(width, np.float32), np.empty(width, np.float32)
    bits, steep_bits = value.view(np.uint32), steep.view(np.uint32)
    scales, shifts = _beside(scale, width), _beside(shift, width)
    slopes, constants = _beside(slope, width), _beside(constant, width)
    for i in range(rows):
        for j in range(width):
            bits[j] = np.uint32(x[i, j]) << np.uint32(16)
            steep_bits[j] = np.uint32(gradient[i, j]) << np.uint32(16)
        for j in range(width):
            g = steep[j] if value[j] * scales[j] + shifts[j] > 0 else np.float32(0)
            value[j] = g * scales[j] + value[j] * slopes[j] + constants[j]
        for j in range(width):
            result[i, j] = _rounded(bits[j])


@njit(inline="always")
def _rounded(bits: np.uint32) -> np.int16:
    """The bits of float32 rounded to bf16, to the nearest and in a tie to the even one."""
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.int16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@compiled
def _beside(values: np.ndarray, width: int) -> np.ndarray:
    """(C,) to (W,) float32, the same for each pixel of a row."""
    wide = np.empty(width, np.float32)
    for j in range(width):
        wide[j] = values[j % len(values)]
    return wide


@compiled
def _together(sums: np.ndarray, channels: int) -> np.ndarray:
    """(2, W) to (2, C), over the pixels of a row."""
    total = np.zeros((2, channels))
    for j in range(sums.shape[1]):
        total[:, j % channels] += sums[:, j]
    return total
