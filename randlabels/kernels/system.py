"""The linear system (K + λI)·A = Y and its solution, refined against float64 residuals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .cholesky import TILE, Breakdown, Triangle
from .functions import Kernel
from .rows import Rows

TOLERANCE = 1e-7
"""Relative residual ‖Y - (K + λI)·A‖ / ‖Y‖ at which the refinement ends."""

LIMIT = 1e-6
"""Relative residual above which a solution is refused."""


class System(Protocol):
    """K between n training images, and between m test images and these.

    `fill` writes K + λI into a triangle; `outputs` is K·A, (n, r) float64 from A (n, r) float64;
    `predictions` is the same for the test images, (m, r), of the A last given to `outputs`.
    """

    n: int
    ridge: float

    def fill(self, triangle: Triangle) -> None: ...
    def outputs(self, coefficients: torch.Tensor) -> torch.Tensor: ...
    def predictions(self, coefficients: torch.Tensor) -> torch.Tensor: ...


class KernelSystem:
    """K_ij = kernel(x_i, x_j) of stored rows, computed anew, tile by tile, at each use."""

    def __init__(self, train: Rows, test: Rows, kernel: Kernel, ridge: float) -> None:
        self.train = train
        self.test = test
        self.kernel = kernel
        self.ridge = ridge
        self.n = len(train)

    def fill(self, triangle: Triangle) -> None:
        for rows, columns, view in triangle.tiles():
            view.copy_(self._tile(self.train, rows, columns))
            if rows == columns:
                view.diagonal().add_(self.ridge)

    def outputs(self, coefficients: torch.Tensor) -> torch.Tensor:
        outputs = torch.zeros_like(coefficients)
        for columns in _pieces(self.n):
            for rows in _pieces(self.n, columns.start):
                tile = self._tile(self.train, rows, columns)
                outputs[rows] += tile @ coefficients[columns]
                if rows != columns:
                    outputs[columns] += tile.T @ coefficients[rows]
        return outputs

    def predictions(self, coefficients: torch.Tensor) -> torch.Tensor:
        outputs = coefficients.new_zeros(len(self.test), coefficients.shape[1])
        for rows in _pieces(len(self.test)):
            for columns in _pieces(self.n):
                outputs[rows] += self._tile(self.test, rows, columns) @ coefficients[columns]
        return outputs

    def _tile(self, left: Rows, rows: slice, columns: slice) -> torch.Tensor:
        inner = left.inner(rows, self.train, columns)
        return self.kernel(inner, left.squares[rows], self.train.squares[columns])


@dataclass(frozen=True)
class Solution:
    """What one label set's solution is and does.

    train: (n, K) float64 outputs on the training images; test: (m, K) on the test images.
    relative_residual: ‖Y - (K + λI)·A‖ / ‖Y‖. norm: √tr(Aᵀ·K·A), the minimum norm ‖w‖.
    smallest_pivot: of the factorisation.
    """

    train: torch.Tensor
    test: torch.Tensor
    relative_residual: float
    norm: float
    smallest_pivot: float


def solve(system: System, factor: Triangle, targets: list[torch.Tensor]) -> list[Solution]:
    """The solutions for several targets, each (n, K) float64, as one block of right-hand sides.

    Raises:
        Breakdown: the refinement does not reach LIMIT.
    """
    sets = [_Refined(target) for target in targets]
    while active := [each for each in sets if not each.converged]:
        right = torch.cat([each.residual / each.size for each in active], 1)
        correction = factor.solve(right.to(factor.values.dtype)).double()
        for each, part in zip(active, _columns(correction, active), strict=True):
            each.proposed = each.coefficients + part * each.size
        outputs = system.outputs(torch.cat([each.proposed for each in active], 1))
        for each, part in zip(active, _columns(outputs, active), strict=True):
            each.accept(part + system.ridge * each.proposed)
    predictions = system.predictions(torch.cat([each.coefficients for each in sets], 1))
    pivot = factor.smallest_pivot()
    solutions = []
    for each, prediction in zip(sets, _columns(predictions, sets), strict=True):
        outputs = each.target - each.residual - system.ridge * each.coefficients
        norm = float((each.coefficients * outputs).sum().clamp(min=0).sqrt())
        solutions.append(Solution(outputs, prediction, each.relative, norm, pivot))
    return solutions


class _Refined:
    """One set of right-hand sides on its way: it stops when it has converged, whatever becomes of
    the sets beside it."""

    def __init__(self, target: torch.Tensor) -> None:
        self.target = self.residual = target
        self.coefficients = self.proposed = torch.zeros_like(target)
        self.relative = 1.0
        self.converged = False

    @property
    def size(self) -> float:
        """The norm of the residual, by which it is scaled: small numbers have few digits."""
        return float(self.residual.norm())

    def accept(self, reached: torch.Tensor) -> None:
        """Take the proposed coefficients, which give `reached`, if they are an improvement."""
        residual = self.target - reached
        relative = float(residual.norm() / self.target.norm())
        advanced = 2 * relative < self.relative  # false for NaN, which ends the refinement
        if relative < self.relative:
            self.coefficients, self.residual, self.relative = self.proposed, residual, relative
        self.converged = self.relative <= TOLERANCE or not advanced
        if self.converged and not self.relative <= LIMIT:
            raise Breakdown(f"the refinement stopped at a relative residual of {self.relative:.1e}")


def _columns(block: torch.Tensor, sets: list[_Refined]) -> Sequence[torch.Tensor]:
    return block.split([each.target.shape[1] for each in sets], 1)


def _pieces(n: int, start: int = 0) -> Iterator[slice]:
    for first in range(start, n, TILE):
        yield slice(first, min(first + TILE, n))
