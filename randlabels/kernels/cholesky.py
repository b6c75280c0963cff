"""Cholesky factorisation K = L·Lᵀ of a matrix that just fits into memory, in place.

Only the lower triangle is stored, in panels of columns. K is written into them, and L replaces it
panel by panel; no second copy exists.

Rounding errors grow with the remainder of K, which shrinks with each column of L whose products
are subtracted. The products of the first panel are therefore subtracted in float64, before K is
rounded, and the next panels are narrow. On MNIST, a float32 factor then solves forty times as
accurately, which saves a round of refinement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.linalg import solve_triangular

from .products import product, subtract_product

HEAD_COLUMNS = 250  # of the first panel; its products cost n²·HEAD_COLUMNS operations in float64
TILE_ROWS = 1000  # rows, and columns, of K that are computed at once
BLOCK_ROWS = 1000
"""Columns of the widest panel, and rows of one product: large enough for the full speed of matrix
products. Values computed above the diagonal add 5 % to n³/3 operations at n = 60,000."""


class Breakdown(ArithmeticError):
    """Raised if a pivot is not positive: the matrix is singular in this precision."""


class Triangle:
    """The lower triangle of an (n, n) matrix: of K after `fill`, of L after `factorise`.

    panels: pairs of a panel's first column and its values (n - first, width), which are the rows
        from its diagonal on. Values above the diagonal have no meaning. The first panel has
        HEAD_COLUMNS columns, each later one half as many as all before it, at most BLOCK_ROWS.
    """

    def __init__(self, n: int, dtype: torch.dtype, device: str = "cpu") -> None:
        self.n = n
        self.dtype = dtype
        self.panels = [
            (start, torch.empty(n - start, width, dtype=dtype, device=device))
            for start, width in _panels(n)
        ]

    @staticmethod
    def size(n: int) -> int:
        """Return the number of values stored for n rows: about n²/2 + n·BLOCK_ROWS/2."""
        return sum((n - start) * width for start, width in _panels(n))

    def fill(
        self,
        tile_of: Callable[[slice, slice], Tensor],
        ridge: float = 0.0,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Write L into the first panel, and K minus that panel's products into the others.

        `tile_of` returns some rows and columns of K - ridge·I, (m, k) float64, in a new tensor.
        `beat` is called after each tile, and may raise to stop.

        Raises:
            Breakdown: names the row whose pivot is not positive.
        """
        first = self.panels[0][1]
        width = first.shape[1]
        head = torch.empty(self.n, width, dtype=torch.float64, device=first.device)
        for rows in pieces(self.n):
            head[rows] = tile_of(rows, slice(0, width))
            beat()
        head.diagonal().add_(ridge)
        corner = _cholesky(head[:width], 0)
        first.copy_(solve_triangular(corner.T, head, upper=True, left=False))
        head = first.double()  # as rounded, so that the stored values are the ones subtracted
        for start, panel in self.panels[1:]:
            for columns in pieces(start + panel.shape[1], start):
                for rows in pieces(self.n, columns.start):
                    tile = tile_of(rows, columns).sub_(product(head[rows], head[columns]))
                    if rows.start == columns.start:
                        tile.diagonal().add_(ridge)
                    below = panel[rows.start - start :, columns.start - start :]
                    below[: tile.shape[0], : tile.shape[1]] = tile
                    beat()

    def factorise(self, tick: Callable[[float], None] = lambda share: None) -> None:
        """Replace what `fill` has written by L.

        Left-looking: the products of all earlier panels are subtracted from a panel. Then its
        diagonal block is factorised, and the rows below are divided by that. `tick` is called with
        the share of the work done since its last call.

        Raises:
            Breakdown: names the row whose pivot is not positive.
        """
        work = sum(start * panel.numel() for start, panel in self.panels)
        for index, (start, panel) in enumerate(self.panels[1:], 1):
            width = panel.shape[1]
            for first, before in self.panels[1:index]:
                below = before[start - first :]
                pairs = zip(panel.split(BLOCK_ROWS), below.split(BLOCK_ROWS), strict=True)
                for target, left in pairs:
                    subtract_product(target, left, below[:width])
                tick(before.shape[1] * panel.numel() / work)
            corner = _cholesky(panel[:width].double(), start)
            panel[:width] = corner
            # The inverse is small and is computed in float64; the division is then a fast product.
            identity = torch.eye(width, dtype=corner.dtype, device=corner.device)
            inverse = solve_triangular(corner, identity, upper=False).to(self.dtype)
            for target in panel[width:].split(BLOCK_ROWS):
                target.copy_(product(target, inverse))
            tick(self.panels[0][1].shape[1] * panel.numel() / work)

    def smallest_pivot(self) -> float:
        """Return the smallest squared diagonal entry of L."""
        return min(float(panel.diagonal().min()) for _, panel in self.panels) ** 2

    def solve(self, right: Tensor) -> Tensor:
        """Return X (r, n) float64 with X·L·Lᵀ = `right` (r, n) float64.

        Products are in the triangle's own precision, those of the first panel in float64.
        """
        solution = right.clone()
        for start, panel in self.panels:
            corner, left, here, below = _split(solution, start, panel)
            solved = solve_triangular(corner.T, here.to(corner.dtype), upper=True, left=False)
            here.copy_(solved)
            below.sub_(product(solved, left))
        for start, panel in reversed(self.panels):
            corner, left, here, below = _split(solution, start, panel)
            here.sub_(product(below.to(corner.dtype), left.T))
            here.copy_(solve_triangular(corner, here.to(corner.dtype), upper=False, left=False))
        return solution


def pieces(stop: int, start: int = 0) -> Iterator[slice]:
    """Yield the range from `start` to `stop` in pieces of TILE_ROWS."""
    for first in range(start, stop, TILE_ROWS):
        yield slice(first, min(first + TILE_ROWS, stop))


def _panels(n: int) -> Iterator[tuple[int, int]]:
    """Yield the first column and the width of each panel."""
    start = 0
    while start < n:
        width = min(start // 2 or HEAD_COLUMNS, BLOCK_ROWS, n - start)
        yield start, width
        start += width


def _split(solution: Tensor, start: int, panel: Tensor) -> tuple[Tensor, ...]:
    """Split a panel below its diagonal block, and the solution's columns at the same place."""
    panel = panel if start else panel.double()
    width = [panel.shape[1]]
    return *panel.tensor_split(width), *solution[:, start:].tensor_split(width, 1)


def _cholesky(block: Tensor, start: int) -> Tensor:
    """Return L of a diagonal block (k, k) float64 that begins at row `start`."""
    corner, failed = torch.linalg.cholesky_ex(block)
    if failed:
        raise Breakdown(f"the pivot of row {start + int(failed) - 1} is not positive")
    return corner
