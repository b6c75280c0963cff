"""Passes over bf16 activations in a CPU's memory, each of which reads and writes them once.

Activations come as the int16 of their bits, (M, W): W numbers, some pixels' C channels side by
side, fill whole vectors of the processor. Arithmetic is in float32, sums of rows in float64, and
NaN stays NaN. An argument that is None leaves its part out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from ..native import compiled

ROWS = 64
"""Rows summed in float32 before they are added to a float64 sum."""

inlined = njit(inline="always")


@compiled
def moments(x: np.ndarray, skip: np.ndarray | None, shift: np.ndarray) -> np.ndarray:
    """x += skip; Σ (x - shift) and Σ (x - shift)² of each channel, (2, C) float64; shift (C,)
    float64."""
    rows, width = x.shape
    shifts = _beside(shift, width)
    sums = np.zeros((2, width))
    for first in range(0, rows, ROWS):
        part = np.zeros((2, width), np.float32)
        for i in range(first, min(first + ROWS, rows)):
            for j in range(width):
                value = _sum(x, skip, i, j) - shifts[j]
                part[0, j] += value
                part[1, j] += value * value
        sums += part
    return _together(sums, len(shift))


@compiled
def rectified(
    x: np.ndarray,
    skip: np.ndarray | None,
    scale: np.ndarray,
    shift: np.ndarray,
    out: np.ndarray,
) -> None:
    """x += skip; out = max(0, scale·x + shift); scale and shift (C,) float64."""
    rows, width = x.shape
    scales, shifts = _beside(scale, width), _beside(shift, width)
    for i in range(rows):
        for j in range(width):
            y = _sum(x, skip, i, j) * scales[j] + shifts[j]
            out[i, j] = _narrow(np.float32(0) if y <= 0 else y)


@compiled
def gradient_sums(
    gradient: np.ndarray, x: np.ndarray, scale: np.ndarray, shift: np.ndarray, mean: np.ndarray
) -> np.ndarray:
    """Σ g and Σ g·(x - mean) of each channel, (2, C) float64, with g the gradient where
    scale·x + shift > 0 and 0 elsewhere; constants (C,) float64."""
    rows, width = x.shape
    scales, shifts, means = _beside(scale, width), _beside(shift, width), _beside(mean, width)
    sums = np.zeros((2, width))
    for first in range(0, rows, ROWS):
        part = np.zeros((2, width), np.float32)
        for i in range(first, min(first + ROWS, rows)):
            for j in range(width):
                value = _wide(x[i, j])
                g = _wide(gradient[i, j]) if value * scales[j] + shifts[j] > 0 else np.float32(0)
                part[0, j] += g
                part[1, j] += g * (value - means[j])
        sums += part
    return _together(sums, len(mean))


@compiled
def input_gradient(
    gradient: np.ndarray,
    direct: np.ndarray | None,
    x: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    slope: np.ndarray,
    constant: np.ndarray,
    result: np.ndarray,
) -> None:
    """result = scale·g + slope·x + constant + direct, with g as above; constants (C,) float64."""
    rows, width = x.shape
    scales, shifts = _beside(scale, width), _beside(shift, width)
    slopes, constants = _beside(slope, width), _beside(constant, width)
    for i in range(rows):
        for j in range(width):
            value = _wide(x[i, j])
            g = _wide(gradient[i, j]) if value * scales[j] + shifts[j] > 0 else np.float32(0)
            total = g * scales[j] + value * slopes[j] + constants[j]
            if direct is not None:
                total += _wide(direct[i, j])
            result[i, j] = _narrow(total)


def _reinterpreted(source: types.Type, target: types.Type) -> Any:
    """A function of a compiled pass: the value of `target` that has the bits of one of `source`."""

    def typed(typing: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.bitcast(values[0], context.get_value_type(target))

        return target(source), generate

    return intrinsic(typed)


_float = _reinterpreted(types.uint32, types.float32)
_bits = _reinterpreted(types.float32, types.uint32)


@inlined
def _sum(x, skip, i, j):  # type: ignore[no-untyped-def]
    """The number at one place, after x += skip there."""
    if skip is not None:
        x[i, j] = _narrow(_wide(x[i, j]) + _wide(skip[i, j]))
    return _wide(x[i, j])


@inlined
def _wide(bits: np.int16) -> np.float32:
    """The number of such bf16 bits."""
    return _float(np.uint32(bits) << np.uint32(16))


@inlined
def _narrow(value: np.float32) -> np.int16:
    """The bits of float32 rounded to bf16, to the nearest and in a tie to the even one."""
    bits = _bits(value)
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
