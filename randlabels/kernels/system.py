"""The linear system (K + λI)·A = Y, and its solution, refined with residuals in float64.

Coefficients, targets and outputs have one row for each right-hand side: (r, n).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .cholesky import Breakdown, Triangle, pieces, product
from .features import CODES_PER_DEVIATION, ConvFeatures

REFINED_RESIDUAL = 5e-7  # relative, of a right-hand side, at which its refinement ends
MAX_RESIDUAL = 1e-6  # ‖Y - (K + λI)·A‖ / ‖Y‖ of a label set above which its solution is refused
# The constant feature's part of K. Its eigenvalue is n times that: far above any useful ridge, but
# small enough for a factorisation in float32.
INTERCEPT = 0.01
ROWS_AT_ONCE = 100  # images whose codes are in float64: 0.1 GiB for 32,000 filters
EXACT_TERMS = 1024  # products of int8 numbers that float32 sums without rounding: 128²·1024 = 2²⁴


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
        """Return A·K (r, n) float64, the outputs on the training images; A is (r, n) float64."""
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


class ConvSystem:
    """K = ΦΦᵀ/(CODES_PER_DEVIATION²·columns) + INTERCEPT from the codes Φ of `ConvFeatures`.

    The mean of its diagonal is about 1. The features are centred; the constant is their intercept.
    `beat` is called after each block of images, and may raise to stop. The methods are those of
    `KernelSystem`.
    """

    def __init__(self, features: ConvFeatures, ridge: float, beat: Callable[[], None]) -> None:
        self.train, self.test = features.train, features.test
        self.ridge, self.beat = ridge, beat
        self.n, columns = self.train.shape
        self._unit = CODES_PER_DEVIATION**2 * columns

    def tile(self, rows: slice, columns: slice) -> Tensor:
        return integer_product(self.train[rows], self.train[columns]) / self._unit + INTERCEPT

    def outputs(self, coefficients: Tensor) -> Tensor:
        return self._apply(coefficients, self.train)

    def predictions(self, coefficients: Tensor) -> Tensor:
        return self._apply(coefficients, self.test)

    def _apply(self, coefficients: Tensor, codes: Tensor) -> Tensor:
        """Return A·K (r, m) between the training images and those of `codes` (m, 4·F)."""
        weights = coefficients.new_zeros(len(coefficients), codes.shape[1])
        blocks = coefficients.split(ROWS_AT_ONCE, 1)
        for part, features in zip(blocks, self.train.split(ROWS_AT_ONCE), strict=True):
            weights += part @ features.double()
            self.beat()
        outputs = []
        for features in codes.split(ROWS_AT_ONCE):
            outputs.append(product(weights, features.double()))
            self.beat()
        intercept = INTERCEPT * coefficients.sum(1, keepdim=True)
        return torch.cat(outputs, 1).div_(self._unit).add_(intercept)


System = KernelSystem | ConvSystem


@dataclass(frozen=True)
class Solution:
    """The solution for one label set.

    train: (n, K) float64 outputs on the training images; test: (m, K) on the test images.
    report: relative residual ‖Y - (K + λI)·A‖ / ‖Y‖, smallest pivot of the factor, interpolation
        error, the largest difference of an output from its target, and minimum norm √tr(Aᵀ·K·A).
    """

    train: Tensor
    test: Tensor
    report: dict[str, float]


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
        fitted = outputs[rows].T
        report = {
            "relative_residual": relative,
            "smallest_pivot": factor.smallest_pivot(),
            "interpolation_error": float((fitted - target).abs().max()),
            "norm": float(squared_norms[rows].sum().clamp(min=0).sqrt()),
        }
        solved.append(Solution(fitted, predictions[rows].T, report))
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


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a·bᵀ (m, n) float64 for (m, k) and (n, k) int8, exactly, at the speed of float32."""
    parts = zip(a.split(EXACT_TERMS, 1), b.split(EXACT_TERMS, 1), strict=True)
    products = (product(x.float(), y.float()) for x, y in parts)
    total = next(products).double()
    for each in products:
        total += each
    return total
