"""The linear system (K + λI)·A = Y, and its solution, refined with residuals in float64.

Coefficients, targets and outputs have one row for each right-hand side: (r, n).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .cholesky import Breakdown, Triangle, pieces
from .random_conv import ConvSystem

REFINED_RESIDUAL = 5e-7  # relative, of a right-hand side, at which its refinement ends
MAX_RESIDUAL = 1e-6  # ‖Y - (K + λI)·A‖ / ‖Y‖ of a label set above which its solution is refused


@dataclass(frozen=True)
class KernelSystem:
    """K_ij = kernel(x_i, x_j) of features, recomputed tile by tile at each use.

    train: (n, d) float32, a row for each training image; test: (m, d) float32.
    kernel: returns K (m, k) between rows (m, d) and (k, d), all float64.
    `beat` is called after each tile of outputs, and may raise to stop.
    """

    train: Tensor
    test: Tensor
    kernel: Callable[[Tensor, Tensor], Tensor]
    ridge: float
    beat: Callable[[], None] = lambda: None

    @property
    def n(self) -> int:
        """Number of training images."""
        return len(self.train)

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """Return some rows and columns of K, (m, k) float64, in a new tensor."""
        left = self.train[rows].double()
        return self.kernel(left, left if rows == columns else self.train[columns].double())

    def outputs(self, coefficients: Tensor) -> Tensor:
        """Return A·K (r, n) float64 on the training images, of coefficients A (r, n) float64."""
        outputs = torch.zeros_like(coefficients)
        for columns in pieces(self.n):
            for rows in pieces(self.n, columns.start):
                tile = self.tile(rows, columns)
                outputs[:, rows] += coefficients[:, columns] @ tile.T
                if rows != columns:  # K is symmetric
                    outputs[:, columns] += coefficients[:, rows] @ tile
                self.beat()
        return outputs

    def predictions(self, coefficients: Tensor) -> Tensor:
        """Return the same for the test images, (r, m) float64."""
        outputs = coefficients.new_zeros(len(coefficients), len(self.test))
        for rows in pieces(len(self.test)):
            for columns in pieces(self.n):
                tile = self.kernel(self.test[rows].double(), self.train[columns].double())
                outputs[:, rows] += coefficients[:, columns] @ tile.T
                self.beat()
        return outputs


System = KernelSystem | ConvSystem


@dataclass(frozen=True)
class Solution:
    """The solution for one label set.

    train: (n, K) float64 outputs on the training images; test: (m, K) on the test images.
    relative_residual: ‖Y - (K + λI)·A‖ / ‖Y‖. norm: √tr(Aᵀ·K·A), the minimum norm ‖w‖.
    """

    train: Tensor
    test: Tensor
    relative_residual: float
    norm: float


def solutions(system: System, factor: Triangle, targets: list[Tensor]) -> list[Solution]:
    """Return the solution for each of the targets, (n, K) float64 each, solved as one block.

    Raises:
        Breakdown: the refinement does not reach MAX_RESIDUAL.
    """
    block = torch.cat([target.T for target in targets])
    coefficients, residual = _refine(system, factor, block)
    outputs = block - residual - system.ridge * coefficients
    squared_norms = (coefficients * outputs).sum(1)
    predictions = system.predictions(coefficients)
    solved, start = [], 0
    for target in targets:
        rows = slice(start, start + target.shape[1])
        relative = float(residual[rows].norm() / target.norm())
        if not relative <= MAX_RESIDUAL:
            raise Breakdown(f"the refinement stopped at a relative residual of {relative:.1e}")
        norm = float(squared_norms[rows].sum().clamp(min=0).sqrt())
        solved.append(Solution(outputs[rows].T, predictions[rows].T, relative, norm))
        start = rows.stop
    return solved


def _refine(system: System, factor: Triangle, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return coefficients and their residuals, both (r, n), for targets (r, n).

    Each row is corrected until its residual is small, or is no longer halved. Rows do not
    influence each other.
    """
    coefficients, residual = torch.zeros_like(targets), targets.clone()
    sizes = targets.norm(dim=1)
    relative = torch.ones_like(sizes)
    active = sizes.nonzero()[:, 0]  # a class without an image has a row of zeros
    while len(active):
        right = residual[active]
        scale = right.norm(dim=1, keepdim=True)  # keeps small numbers in float32's range
        proposed = coefficients[active] + factor.solve(right / scale) * scale
        left = targets[active] - system.outputs(proposed) - system.ridge * proposed
        reached = left.norm(dim=1) / sizes[active]
        better = reached < relative[active]  # false for NaN
        unfinished = (2 * reached < relative[active]) & (reached > REFINED_RESIDUAL)
        kept = active[better]
        coefficients[kept], residual[kept] = proposed[better], left[better]
        relative[kept] = reached[better]
        active = active[unfinished]
    return coefficients, residual
