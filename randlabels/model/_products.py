"""Gradients of convolutions' weights by the processor's own instruction for bf16 (AVX512-BF16).

VDPBF16PS multiplies two vectors of 16 pairs of bf16 and adds the sum of each pair's products to 16
float32. A pair here are the numbers of two pixels beside each other, in an int32 of their bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..native import address, compiled, instructions, repeated
from ._vectors import LANES

PIXELS = 512
"""Of a gradient that are paired at a time: enough to be worth the way of the sums to registers and
back, and few enough that the pairs stay in a core's cache."""


class BFloat(ir.Type):
    """LLVM's type for bf16, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"


INT16, INT32, FLOAT32 = (
    ir.VectorType(each, LANES) for each in (ir.IntType(16), ir.IntType(32), ir.FloatType())
)
PAIRS = ir.VectorType(BFloat(), 2 * LANES)
PRODUCT = ir.FunctionType(FLOAT32, [FLOAT32, PAIRS, PAIRS])


@compiled
def weight_gradient(x: np.ndarray, gradient: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Σ over images and pixels of a convolution's input times the gradient of its output,
    (size, size, C, K) float32, padded by size // 2.

    x (N, H, W, C) and gradient (N, H', W', K) are the int16 of bf16 bits; C and K are multiples of
    LANES, W' is even.
    """
    images, height, _, channels = x.shape
    _, rows, columns, filters = gradient.shape
    padding, half, period = size // 2, columns // 2, 2 * stride
    block = max(1, PIXELS // (rows * columns))
    # columns of the filter that are a period apart see the same pairs, one place further
    shifts, deep = min(size, period), (height + 2 * padding + stride - 1) // stride
    wide = half + (size - 1) // period
    seen = np.zeros((shifts, block, stride, deep, wide, channels), np.int32)
    given = np.empty((1, block, 1, rows, half, filters), np.int32)
    sums = np.zeros((size, size, channels, filters), np.float32)
    for first in range(0, images, block):
        count = min(block, images - first)
        _pair(x[first : first + count], padding, seen)
        _pair(gradient[first : first + count], 0, given)
        for i in range(size):
            for j in range(size):
                from_row, from_pair = i // stride, j // period
                part = seen[j % period, :count, i % stride, from_row : from_row + rows]
                part = part[:, :, from_pair : from_pair + half]
                for c in range(0, channels, LANES):
                    for k in range(0, filters, LANES):
                        _add_products(
                            sums[i, j, c : c + LANES, k : k + LANES],
                            part[:, :, :, c : c + LANES],
                            given[0, :count, 0, :, :, k : k + LANES],
                        )
    return sums


@compiled
def _pair(x: np.ndarray, padding: int, pairs: np.ndarray) -> None:
    """pairs[s, n, y % S, y // S, j] = pixels 2·S·j + s and S further in row y, of x (N, H, W, C)
    with `padding` zeros around it; pairs (shifts, N, S, H'', W'', C) int32 holds zeros above and
    below already."""
    images, height, width, channels = x.shape
    shifts, _, stride, _, wide, _ = pairs.shape
    for s in range(shifts):
        offset, step = (s - padding) * channels, 2 * stride * channels
        # both pixels are inside; pairs before and behind are half outside, or all
        begin = (max(0, padding - s) + 2 * stride - 1) // (2 * stride)
        end = max(begin, min(wide, (width - 1 - stride + padding - s) // (2 * stride) + 1))
        for n in range(images):
            for y in range(height):
                numbers = x[n, y]
                row = pairs[s, n, (y + padding) % stride, (y + padding) // stride]
                for c in range(0, channels, LANES):
                    for j in range(begin, end):
                        left = j * step + offset + c
                        _interleave(numbers, left, left + stride * channels, row, j * channels + c)
                    for edge in range(wide - end + begin):
                        j = edge if edge < begin else edge - begin + end
                        left = j * step + offset + c
                        right = left + stride * channels
                        left = left if 0 <= left < width * channels else -1
                        right = right if 0 <= right < width * channels else -1
                        _interleave(numbers, left, right, row, j * channels + c)


@instructions
def _interleave(typing: Any, row: Any, left: Any, right: Any, pairs: Any, at: Any) -> Any:
    """To `at` in pairs, LANES numbers of row from `left` on with those from `right` on; from -1
    on, zeros."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        source, target = (
            context.make_array(signature.args[i])(context, builder, values[i]).data for i in (0, 3)
        )

        def numbers(place: Any) -> Any:
            inside = builder.icmp_signed(">=", place, place.type(0))
            address = builder.gep(source, [builder.select(inside, place, place.type(0))])
            found = builder.load(builder.bitcast(address, INT16.as_pointer()), align=2)
            kept = builder.select(inside, found, ir.Constant(INT16, [0] * LANES))
            return builder.zext(kept, INT32)

        high = builder.shl(numbers(values[2]), ir.Constant(INT32, [16] * LANES))
        address = builder.bitcast(builder.gep(target, [values[4]]), INT32.as_pointer())
        builder.store(builder.or_(numbers(values[1]), high), address, align=4)
        return context.get_dummy_value()

    return types.void(row, left, right, pairs, at), generate


@instructions
def _add_products(typing: Any, sums: Any, x: Any, gradient: Any) -> Any:
    """sums[c, k] += Σ x[n, y, j, c]·gradient[n, y, j, k], for LANES c and k; all sums stay in
    registers meanwhile."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        total, left, right = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, values, strict=True)
        )
        images, rows, pairs, _ = cgutils.unpack_tuple(builder, right.shape)
        places = [address(builder, total, FLOAT32, images.type(c)) for c in range(LANES)]
        held = [cgutils.alloca_once(builder, FLOAT32) for _ in places]
        for place, register in zip(places, held, strict=True):
            builder.store(builder.load(place, align=4), register)
        with (
            cgutils.for_range(builder, images) as image,
            cgutils.for_range(builder, rows) as row,
            cgutils.for_range(builder, pairs) as pair,
        ):
            at = image.index, row.index, pair.index
            factors = builder.load(address(builder, right, INT32, *at), align=4)
            numbers = address(builder, left, ir.IntType(32), *at)
            for c, register in enumerate(held):
                add_product(builder, register, builder.gep(numbers, [images.type(c)]), factors)
        for place, register in zip(places, held, strict=True):
            builder.store(builder.load(register), place, align=4)
        return context.get_dummy_value()

    return types.void(sums, x, gradient), generate


def add_product(builder: Any, register: Any, pair: Any, factors: Any) -> None:
    """register += the pair at an address times each of LANES pairs."""
    same = repeated(builder, builder.load(pair), INT32)
    name = "llvm.x86.avx512bf16.dpbf16ps.512"
    product = cgutils.get_or_insert_function(builder.module, PRODUCT, name)
    operands = (builder.bitcast(each, PAIRS) for each in (same, factors))
    builder.store(builder.call(product, [builder.load(register), *operands]), register)
