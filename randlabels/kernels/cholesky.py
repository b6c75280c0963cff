"""Exact Cholesky factorisation of a matrix that just fits into memory: K = L·Lᵀ, in place.

Only the lower triangle is stored, in column panels: panel j holds the rows from j·BLOCK on of
BLOCK columns. K is built in them, L replaces it panel by panel, and no second copy exists.

A sum's rounding errors are relative to its largest partial sum, and what is left of K shrinks with
each column taken out of it. So the products of the first HEAD columns are taken out in float64,
before anything is rounded, and the next ones a few at a time: on MNIST a float32 factor then solves
forty times as accurately, which saves a round of refinement.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from .products import cores, product

BLOCK = 2000
"""Columns of a panel, and rows that one product takes: large enough for the full speed of matrix
products, small enough for the caches; what is computed above the diagonal is 5 % of n³/3 at
n = 60,000."""

HEAD = 250
"""Columns of L whose products are in float64: n²·HEAD operations."""

TILE = 1000
"""Rows and columns of a piece of K that is computed at once; it divides BLOCK."""

Matrix = Callable[[slice, slice], torch.Tensor]
"""Rows and columns to these entries of the matrix, (m, k) float64, in a tensor of their own."""


class Breakdown(ArithmeticError):
    """A pivot was not positive: K is singular in this precision."""


class Triangle:
    """The lower triangle of an (n, n) matrix: of K first, of L once `factorise` has run.

    values: (size(n),) float32 or float64, panel after panel, each by rows. What lies above the
        diagonal has no meaning. panels: views of it, (n - j·BLOCK, ≤ BLOCK). strips: the same
        columns in pieces that are worked on at once, each from its diagonal block down, with its
        first row: HEAD columns, then half as many as all before them, BLOCK at last.
    """

    def __init__(self, values: torch.Tensor, n: int) -> None:
        if len(values) != self.size(n):
            raise ValueError(f"a triangle of {n} rows has {self.size(n)} values, not {len(values)}")
        self.values = values
        self.n = n
        self.panels = []
        start = 0
        for rows, columns in _shapes(n):
            self.panels.append(values[start : start + rows * columns].view(rows, columns))
            start += rows * columns
        self.strips = [
            (j * BLOCK + left, panel[left:, left:right])
            for j, panel in enumerate(self.panels)
            for left, right in _cuts(j * BLOCK, panel.shape[1])
        ]

    @staticmethod
    def size(n: int) -> int:
        """The number of values that n rows take: about n²/2 + n·BLOCK/2."""
        return sum(rows * columns for rows, columns in _shapes(n))

    @classmethod
    def empty(cls, n: int, dtype: torch.dtype, device: str) -> Triangle:
        size = cls.size(n)
        if device != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):
            return cls(torch.empty(size, dtype=dtype, device=device), n)
        memory = mmap.mmap(-1, size * dtype.itemsize)
        memory.madvise(mmap.MADV_HUGEPAGE)  # in pages of 4 KiB, the first touch takes seconds a GiB
        return cls(torch.frombuffer(memory, dtype=dtype), n)

    @classmethod
    def open(cls, file: Path, n: int) -> Triangle:
        """What `save` wrote, mapped into memory; ValueError if it is not whole."""
        return cls(torch.from_numpy(np.load(file, mmap_mode="c")), n)

    def save(self, file: Path) -> None:
        with open(file, "wb") as out:
            np.save(out, self.values.cpu().numpy())

    def fill(
        self, matrix: Matrix, ridge: float = 0.0, beat: Callable[[], None] = lambda: None
    ) -> None:
        """The first HEAD columns of L, and what they leave of K = matrix + ridge·I: K - L·Lᵀ.

        `beat` is called for each tile, and may raise to stop.

        Raises:
            Breakdown: naming the row whose pivot was not positive.
        """
        strip = self.strips[0][1]
        width = strip.shape[1]
        parts = []
        for rows in pieces(self.n):
            parts.append(matrix(rows, slice(0, width)))
            beat()
        head = torch.cat(parts)
        head.diagonal().add_(ridge)
        corner = _corner(head[:width], 0)
        head = torch.linalg.solve_triangular(corner.T, head, upper=True, left=False)
        head = head.to(strip.dtype).double().contiguous()  # what is stored is what is taken out

        def take_out(tile: tuple[slice, slice, torch.Tensor]) -> None:
            rows, columns, view = tile
            rest = matrix(rows, columns).sub_(product(head[rows], head[columns]))
            if rows == columns:
                rest.diagonal().add_(ridge)
            view.copy_(rest)

        with cores(head.device) as threads:
            for _ in threads.map(take_out, self.tiles()):
                beat()
        strip.copy_(head)

    def tiles(self) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        """Rows, columns and a view of each tile; together they cover the triangle."""
        for j, panel in enumerate(self.panels):
            first = j * BLOCK
            for left in range(0, panel.shape[1], TILE):
                for top in range(left, len(panel), TILE):
                    view = panel[top : top + TILE, left : left + TILE]
                    rows = slice(first + top, first + top + len(view))
                    yield rows, slice(first + left, first + left + view.shape[1]), view

    def factorise(self, tick: Callable[[float], None] = lambda operations: None) -> None:
        """Replace what `fill` left by L; `tick` is told the floating-point operations done since it
        last was.

        Left-looking: a strip takes the products of all strips before it, then its diagonal block
        is factorised, then the rows below are divided by it.

        Raises:
            Breakdown: naming the row whose pivot was not positive.
        """
        for j, (start, strip) in enumerate(self.strips[1:], 1):
            columns = strip.shape[1]
            for first, before in self.strips[1:j]:
                below = before[start - first :]
                right = below[:columns]
                for target, left in zip(strip.split(BLOCK), below.split(BLOCK), strict=True):
                    target.sub_(product(left, right))
                tick(2.0 * len(strip) * columns * before.shape[1])
            corner = _corner(strip[:columns].double(), start)
            # The rows below become K·corner⁻ᵀ. The inverse is small and taken in float64, so that
            # dividing by the corner has the speed of a product.
            identity = torch.eye(columns, dtype=corner.dtype, device=corner.device)
            inverse = torch.linalg.solve_triangular(corner, identity, upper=False)
            inverse = inverse.to(strip.dtype)
            strip[:columns] = corner
            for target in strip[columns:].split(BLOCK):
                target.copy_(product(target, inverse))
            tick(_own_operations(*strip.shape))

    def operations(self) -> float:
        """The floating-point operations of `factorise`: n³/3, and what the blocks add to it."""
        head = self.strips[0][1].shape[1]
        return sum(
            2.0 * strip.numel() * (start - head) + _own_operations(*strip.shape)
            for start, strip in self.strips[1:]
        )

    def smallest_pivot(self) -> float:
        """The smallest squared diagonal entry of L."""
        return min(float(panel[: panel.shape[1]].diagonal().min()) for panel in self.panels) ** 2

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """X with L·Lᵀ·X = `right`, both (n, r) float64. Products are in this triangle's dtype, the
        head's in float64; sums over strips are in float64."""
        # products are faster with it on the left
        solution = right.double().T.clone(memory_format=torch.contiguous_format)
        for start, strip in self.strips:
            strip = strip.to(self._precision(start))
            corner, here, parts = _parts(start, strip, solution)
            solved = torch.linalg.solve_triangular(corner, here.T.to(strip.dtype), upper=False).T
            solved = solved.contiguous()
            here.copy_(solved)
            for below, left in parts:
                below.sub_(product(solved, left))
        for start, strip in reversed(self.strips):
            strip = strip.to(self._precision(start))
            corner, here, parts = _parts(start, strip, solution)
            for below, left in parts:
                here.sub_(product(below.to(strip.dtype), left.contiguous().T))
            solved = torch.linalg.solve_triangular(corner.T, here.T.to(strip.dtype), upper=True).T
            here.copy_(solved)
        return solution.T.contiguous()

    def _precision(self, start: int) -> torch.dtype:
        """Of the products of the strip that begins at `start`: float64 for the first one."""
        return self.values.dtype if start else torch.float64


def pieces(n: int, start: int = 0) -> Iterator[slice]:
    """The rows from `start` to n, TILE at a time."""
    for first in range(start, n, TILE):
        yield slice(first, min(first + TILE, n))


def _corner(block: torch.Tensor, start: int) -> torch.Tensor:
    """L of a diagonal block (k, k) float64 that begins at row `start`."""
    corner, failed = torch.linalg.cholesky_ex(block)
    if failed:
        raise Breakdown(f"the pivot of row {start + int(failed) - 1} is not positive")
    return corner


def _own_operations(rows: int, columns: int) -> float:
    """Of a panel's own factorisation: its diagonal block, and the rows below divided by it."""
    return columns**3 / 3 + 2.0 * (rows - columns) * columns**2


def _parts(
    start: int, strip: torch.Tensor, block: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A strip's corner, the columns of `block` that belong to it, and the pairs of the columns of
    `block` after these and of the strip's rows below the corner, BLOCK at a time."""
    rows, columns = strip.shape
    pairs = [
        (block[:, start + top : start + top + BLOCK], strip[top : top + BLOCK])
        for top in range(columns, rows, BLOCK)
    ]
    return strip[:columns].tril(), block[:, start : start + columns], pairs


def _cuts(start: int, width: int) -> Iterator[tuple[int, int]]:
    """Where the strips of a panel of `width` columns, the first being `start`, begin and end."""
    left = 0
    while left < width:
        right = min(left + ((start + left) // 2 or HEAD), width)
        yield left, right
        left = right


def _shapes(n: int) -> list[tuple[int, int]]:
    """Rows and columns of each panel."""
    return [(n - first, min(BLOCK, n - first)) for first in range(0, n, BLOCK)]
