"""Gradient of a strided convolution's input, for bf16 on a CPU that multiplies it.

Input pixels that are a stride apart see the same of a filter's taps, so that there are stride²
convolutions of the output's gradient, one for each place in a stride. oneDNN takes one to three
times as long for it as these need. A pair of bf16 here are two filters of one pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..native import address, compiled, instructions
from ._products import FLOAT32, INT32, BFloat, add_product
from ._vectors import COLUMNS, LANES, ROWS

PAIRS = LANES // 2
"""Pairs in so many filters."""
NARROW = ir.VectorType(BFloat(), LANES)


@compiled
def input_gradient(
    gradient: np.ndarray, weight: np.ndarray, stride: int, result: np.ndarray
) -> None:
    """Into result (N, S·H', S·W', C): Σ over taps and filters of gradient (N, H', W', K) times
    weight (K, size, size, C), for a stride of S and a padding of size // 2.

    All are the int16 of bf16 bits; C and K are multiples of LANES, H' of ROWS, W' of COLUMNS.
    """
    images, rows, columns, filters = gradient.shape
    size, channels = weight.shape[2], weight.shape[3]
    padding = size // 2
    before, behind = (size - 1) // stride, (stride - 1 + padding) // stride
    blocks, around = filters // LANES, before + behind
    padded = np.zeros((blocks, rows + around, columns + around, PAIRS), np.int32)
    taps = _turned(weight)
    pairs = gradient.view(np.int32)
    for n in range(images):
        for y in range(rows):
            for x in range(columns):
                for k in range(blocks):
                    for pair in range(PAIRS):
                        found = pairs[n, y, x, k * PAIRS + pair]
                        padded[k, before + y, before + x, pair] = found
        for i in range(stride):
            top, first = _first(i + padding, stride, size)
            for j in range(stride):
                left, second = _first(j + padding, stride, size)
                seen = padded[:, before + top :, before + left :]
                part = taps[first::stride, second::stride]
                out = result[n, i::stride, j::stride]
                for y in range(0, rows, ROWS):
                    for x in range(0, columns, COLUMNS):
                        for c in range(0, channels, LANES):
                            _correlate(seen[:, y:, x:], part[:, :, :, c // LANES], out[y:, x:, c:])


@compiled
def _first(place: int, stride: int, size: int) -> tuple[int, int]:
    """The first pixel of the output that sees this one, from the one beside it on, and the tap by
    which it does, counted from the last."""
    nearest = place % stride
    further = (size - 1 - nearest + stride) // stride - 1
    return place // stride - further, size - 1 - nearest - further * stride


@compiled
def _turned(weight: np.ndarray) -> np.ndarray:
    """(size, size, K / LANES, C / LANES, PAIRS, LANES) int32, the last tap first."""
    filters, size, _, channels = weight.shape
    shape = (size, size, filters // LANES, channels // LANES, PAIRS, LANES)
    turned = np.empty(shape, np.int32)
    for k in range(0, filters, 2):
        for i in range(size):
            for j in range(size):
                for c in range(channels):
                    one, other = np.uint16(weight[k, i, j, c]), np.int32(weight[k + 1, i, j, c])
                    block = turned[size - 1 - i, size - 1 - j, k // LANES, c // LANES]
                    block[k % LANES // 2, c % LANES] = np.int32(one) | other << np.int32(16)
    return turned


@instructions
def _correlate(typing: Any, x: Any, taps: Any, out: Any) -> Any:
    """out[y, z] = Σ x[k, y + i, z + j]·taps[i, j, k], rounded to bf16, for ROWS y and COLUMNS z;
    all sums stay in registers meanwhile."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        seen, factors, result = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, values, strict=True)
        )
        height, width, blocks, _, _ = cgutils.unpack_tuple(builder, factors.shape)
        number = height.type
        held = [
            [cgutils.alloca_once(builder, FLOAT32) for _ in range(COLUMNS)] for _ in range(ROWS)
        ]
        for registers in held:
            for register in registers:
                builder.store(ir.Constant(FLOAT32, [0.0] * LANES), register)
        with (
            cgutils.for_range(builder, height) as row,
            cgutils.for_range(builder, width) as column,
            cgutils.for_range(builder, blocks) as block,
        ):
            i, j, k = row.index, column.index, block.index
            lines = [
                address(builder, seen, ir.IntType(32), k, builder.add(i, number(y)), j)
                for y in range(ROWS)
            ]
            vectors = address(builder, factors, INT32, i, j, k)
            for pair in range(PAIRS):
                factor = builder.load(builder.gep(vectors, [number(pair)]), align=4)
                for line, registers in zip(lines, held, strict=True):
                    for z, register in enumerate(registers):
                        place = builder.gep(line, [number(z * PAIRS + pair)])
                        add_product(builder, register, place, factor)
        rounded = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(NARROW, [FLOAT32]),
            "llvm.x86.avx512bf16.cvtneps2bf16.512",
        )
        for y, registers in enumerate(held):
            for z, register in enumerate(registers):
                narrow = builder.call(rounded, [builder.load(register)])
                place = address(builder, result, NARROW, number(y), number(z))
                builder.store(narrow, place, align=2)
        return context.get_dummy_value()

    return types.void(x, taps, out), generate
