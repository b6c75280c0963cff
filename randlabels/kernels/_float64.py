"""The float64 product of matrices, in vectors of AVX512; `products` says when it is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..native import address, compiled, instructions, repeated

FLOAT64 = ir.VectorType(ir.DoubleType(), 8)
VECTORS = 3
ROWS, COLUMNS = 8, VECTORS * FLOAT64.count
"""Of the result that the registers hold at a time: 24 of 32 vectors."""

DEPTH = 500
"""Of the matrices: so many rows of COLUMNS stay in a core's cache."""

MULTIPLY_ADD = ir.FunctionType(FLOAT64, [FLOAT64] * 3)


@compiled
def multiply(a: np.ndarray, b: np.ndarray, result: np.ndarray) -> None:
    """result = a·bᵀ, for a (m, k) with rows of numbers that follow each other, at least ROWS, and
    b (n, k); all float64."""
    panel = np.zeros((DEPTH, COLUMNS))
    sums = np.empty((ROWS, COLUMNS))
    for first in range(0, len(b), COLUMNS):
        columns = result[:, first : first + COLUMNS]
        width = columns.shape[1]
        for start in range(0, max(a.shape[1], 1), DEPTH):
            right = b[first : first + COLUMNS, start : start + DEPTH].T
            panel[: len(right), :width] = right
            for top in range(0, len(a), ROWS):
                below = min(top, len(a) - ROWS)  # the last rows are computed along with some before
                _products(a[below : below + ROWS, start : start + DEPTH], panel, sums)
                rows, found = columns[top : below + ROWS], sums[top - below :, :width]
                if start:
                    rows += found
                else:
                    rows[:] = found


@instructions
def _products(typing: Any, left: Any, right: Any, sums: Any) -> Any:
    """sums (ROWS, COLUMNS) = left (ROWS, k) · the first k rows of right, in registers."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, b, total = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, values, strict=True)
        )
        _, depth = cgutils.unpack_tuple(builder, a.shape)
        place = depth.type
        rows = [address(builder, a, ir.DoubleType(), place(i)) for i in range(ROWS)]
        held = [[cgutils.alloca_once(builder, FLOAT64) for _ in range(VECTORS)] for _ in rows]
        for registers in held:
            for register in registers:
                builder.store(ir.Constant(FLOAT64, [0.0] * FLOAT64.count), register)
        add = cgutils.get_or_insert_function(builder.module, MULTIPLY_ADD, "llvm.fma.v8f64")
        with cgutils.for_range(builder, depth) as step:
            factors = [builder.load(vector, align=8) for vector in _vectors(builder, b, step.index)]
            for row, registers in zip(rows, held, strict=True):
                number = repeated(builder, builder.load(builder.gep(row, [step.index])), FLOAT64)
                for register, factor in zip(registers, factors, strict=True):
                    found = builder.call(add, [number, factor, builder.load(register)])
                    builder.store(found, register)
        for i, registers in enumerate(held):
            for register, vector in zip(registers, _vectors(builder, total, place(i)), strict=True):
                builder.store(builder.load(register), vector, align=8)
        return context.get_dummy_value()

    return types.void(left, right, sums), generate


def _vectors(builder: Any, array: Any, row: Any) -> list[Any]:
    """Addresses of the vectors of an array's row."""
    first = address(builder, array, FLOAT64, row)
    return [builder.gep(first, [row.type(v)]) for v in range(VECTORS)]
