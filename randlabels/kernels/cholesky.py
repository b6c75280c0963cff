"""Cholesky factorisation K = L·Lᵀ of a matrix that just fits into memory, in place.

Only the lower triangle is stored, in panels of columns. K is written into them, and L replaces it
panel by panel; no second copy exists.

Rounding errors grow with the remainder of K, which shrinks with each column of L whose products
are subtracted. The products of the first panel are therefore subtracted in float64, before K is
rounded, and the next panels are narrow. On MNIST, a float32 factor then solves up to seventy times
as accurately, which saves rounds of refinement, or makes it converge at all.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.linalg import solve_triangular

HEAD_COLUMNS = 250  # of the first panel; its products cost n²·HEAD_COLUMNS operations in float64
# Columns of the widest panel, and rows of one product, for the full speed of matrix products.
# Values computed above the diagonal add 5 % to n³/3 operations at n = 60,000.
BLOCK_ROWS = 1000


class Breakdown(ArithmeticError):
    """Raised if a pivot is not positive: the matrix is singular in this precision."""


class Triangle:
    """The lower triangle of an (n, n) matrix: of K after `fill`, of L after `factorise`.

    panels: pairs of a panel's columns and its values (n - first, width), which are the rows from
        its diagonal on. Values above the diagonal have no meaning. The first panel has
        HEAD_COLUMNS columns, each later one half as many as all before it, at most BLOCK_ROWS.
    """

    def __init__(self, n: int, dtype: torch.dtype, device: str = "cpu") -> None:
        self.n = n
        self.dtype = dtype
        self.panels = []
        start = 0
        while start < n:
            width = min(start // 2 or HEAD_COLUMNS, BLOCK_ROWS, n - start)
            values = torch.empty(n - start, width, dtype=dtype, device=device)
            self.panels.append((slice(start, start + width), values))
            start += width

    @staticmethod
    def size(n: int) -> int:
        """Return the number of values stored for n rows: about n²/2 + n·BLOCK_ROWS/2."""
        return sum(panel.numel() for _, panel in Triangle(n, torch.float32, "meta").panels)

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
        columns, first = self.panels[0]
        head = torch.empty(first.shape, dtype=torch.float64, device=first.device)
        for rows in pieces(self.n):
            head[rows] = tile_of(rows, columns)
            beat()
        head.diagonal().add_(ridge)
        corner = _cholesky(head[columns], 0)
        first.copy_(solve_triangular(corner.T, head, upper=True, left=False))
        head = first.double()  # as rounded, so that the stored values are the ones subtracted
        for columns, panel in self.panels[1:]:
            targets = zip(pieces(self.n, columns.start), panel.split(BLOCK_ROWS), strict=True)
            for rows, target in targets:
                tile = tile_of(rows, columns).sub_(head[rows] @ head[columns].T)
                if rows.start == columns.start:
                    tile.diagonal().add_(ridge)
                target.copy_(tile)
                beat()

    def factorise(self, tick: Callable[[float], None] = lambda share: None) -> None:
        """Replace what `fill` has written by L.

        Left-looking: the products of all earlier panels are subtracted from a panel. Then its
        diagonal block is factorised, and the rows below are divided by that. `tick` is called with
        the share of the work done since its last call.

        Raises:
            Breakdown: names the row whose pivot is not positive.
        """
        work = sum(columns.start * panel.numel() for columns, panel in self.panels)
        for index, (columns, panel) in enumerate(self.panels[1:], 1):
            width = panel.shape[1]
            for earlier, before in self.panels[1:index]:
                below = before[columns.start - earlier.start :]
                pairs = zip(panel.split(BLOCK_ROWS), below.split(BLOCK_ROWS), strict=True)
                for target, left in pairs:
                    target.sub_(product(left, below[:width]))
                tick(before.shape[1] * panel.numel() / work)
            corner = _cholesky(panel[:width].double(), columns.start)
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
        for columns, panel in self.panels:
            corner, left = _split(columns, panel)
            here = solution[:, columns].to(corner.dtype)
            solved = solve_triangular(corner.T, here, upper=True, left=False)
            solution[:, columns] = solved
            solution[:, columns.stop :] -= product(solved, left)
        for columns, panel in reversed(self.panels):
            corner, left = _split(columns, panel)
            below = solution[:, columns.stop :].to(corner.dtype)
            here = (solution[:, columns] - product(below, left.T)).to(corner.dtype)
            solution[:, columns] = solve_triangular(corner, here, upper=False, left=False)
        return solution


def _split(columns: slice, panel: Tensor) -> Sequence[Tensor]:
    """Return a panel's diagonal block and the rows below it; those of the first in float64."""
    return (panel if columns.start else panel.double()).tensor_split([panel.shape[1]])


def _cholesky(block: Tensor, start: int) -> Tensor:
    """Return L of a diagonal block (k, k) float64 that begins at row `start`."""
    corner, failed = torch.linalg.cholesky_ex(block)
    if failed:
        raise Breakdown(f"the pivot of row {start + int(failed) - 1} is not positive")
    return corner


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a·bᵀ for (m, k) and (n, k), in their own precision.

    With AVX-512, float32 goes through oneDNN: torch's own route, MKL, uses only half of these
    vectors on processors of AMD.
    """
    onednn = (
        a.dtype is torch.float32
        and a.device.type == "cpu"
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
    )
    if not onednn:
        return a @ b.T
    b = b if b.T.is_contiguous() else b.contiguous()
    linear: Tensor = torch.ops.mkldnn._linear_pointwise(a.contiguous(), b, None, "none", [], "")
    return linear


def pieces(stop: int, start: int = 0) -> Iterator[slice]:
    """Yield the range from `start` to `stop` in pieces of BLOCK_ROWS."""
    for first in range(start, stop, BLOCK_ROWS):
        yield slice(first, min(first + BLOCK_ROWS, stop))
