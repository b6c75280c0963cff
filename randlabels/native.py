"""Functions that numba compiles to the processor's own instructions, and keeps.

It compiles them at their first use on a machine, and keeps the result beside their file, or in the
user's cache. It sees changes of that file only: after one of what the file imports, delete what is
kept in `__pycache__`. Modules with such functions are imported when used: numba takes a while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils
from numba.extending import intrinsic

instructions: Any = intrinsic  # of a type without the first argument, which a caller leaves out


def compiled(function: Callable[..., Any]) -> Any:
    """The function, which numba will compile; in each process anew where it can keep nothing."""

    def by_numba(cache: bool) -> Any:
        # products and sums may be contracted; nothing that would lose NaN or reorder sums
        return njit(cache=cache, nogil=True, fastmath={"contract"}, error_model="numpy")(function)

    try:
        return by_numba(cache=True)
    except RuntimeError:  # no folder can be written to
        return by_numba(cache=False)


def address(builder: Any, array: Any, kind: ir.Type, *indices: Any) -> Any:
    """Of the value of this kind that begins at these first indices of an array."""
    place = array.data
    for index, step in zip(indices, cgutils.unpack_tuple(builder, array.strides), strict=False):
        place = cgutils.pointer_add(builder, place, builder.mul(index, step))
    return builder.bitcast(place, kind.as_pointer())


def repeated(builder: Any, number: Any, kind: ir.VectorType) -> Any:
    """A vector of this kind with the number in every lane."""
    nothing = ir.Constant(kind, ir.Undefined)
    lane = builder.insert_element(nothing, number, ir.IntType(32)(0))
    places = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(lane, nothing, places)
