"""The linear system (K + λI)·A = Y and its solution, refined against float64 residuals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import torch

from .cholesky import Breakdown, Triangle, pieces
from .functions import Kernel
from .products import cores, product
from .rows import Rows

TOLERANCE = 2e-7
"""Relative residual ‖Y - (K + λI)·A‖ / ‖Y‖ at which the refinement ends."""

LIMIT = 1e-6
"""Relative residual above which a solution is refused."""

FEW = 64
"""Right-hand sides up to which each round's residual is computed on all rows. With more, the rows
of a random sample show whether the last round has arrived, at a thirtieth of the operations."""

SAMPLE = 30
"""One row in so many is in that sample."""


class System(Protocol):
    """K between n training images, and between m test images and these.

    `tile` is (m, k) float64, some rows and columns of K; `outputs` is K·A, (n, r) float64 from A
    (n, r) float64; `outputs_at` is that at some training images only, `rows` (k,) int64;
    `predictions` is the same for the test images, (m, r), of an A that was given to `outputs`.
    """

    n: int
    ridge: float

    def tile(self, rows: slice, columns: slice) -> torch.Tensor: ...
    def outputs(self, coefficients: torch.Tensor) -> torch.Tensor: ...
    def outputs_at(self, coefficients: torch.Tensor, rows: torch.Tensor) -> torch.Tensor: ...
    def predictions(self, coefficients: torch.Tensor) -> torch.Tensor: ...


class KernelSystem:
    """K_ij = kernel(x_i, x_j) of stored rows, computed anew, tile by tile, at each use.

    `beat` is called for each tile of outputs, and may raise to stop.
    """

    def __init__(
        self,
        train: Rows,
        test: Rows,
        kernel: Kernel,
        ridge: float,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.train = train
        self.test = test
        self.kernel = kernel
        self.ridge = ridge
        self.beat = beat
        self.n = len(train)

    def tile(self, rows: slice, columns: slice) -> torch.Tensor:
        return self._tile(self.train, rows, columns)

    def outputs(self, coefficients: torch.Tensor) -> torch.Tensor:
        left = _left(coefficients)
        outputs = coefficients.new_zeros(coefficients.shape[::-1])

        def both(rows: slice, columns: slice) -> torch.Tensor:
            """A tile's share of the outputs at its rows, added; its transpose's, returned."""
            tile = self._tile(self.train, rows, columns)
            outputs[:, rows] += product(left[columns.start], tile)
            if rows == columns:  # which is its own transpose
                return torch.zeros((), device=tile.device)
            return product(left[rows.start], tile.T)

        with cores(outputs.device) as threads:
            for columns in pieces(self.n):
                for share in threads.map(both, pieces(self.n, columns.start), repeat(columns)):
                    outputs[:, columns] += share
                    self.beat()
        return outputs.T.contiguous()

    def outputs_at(self, coefficients: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return self._applied(Rows(self.train.values[rows]), coefficients)

    def predictions(self, coefficients: torch.Tensor) -> torch.Tensor:
        return self._applied(self.test, coefficients)

    def _applied(self, rows: Rows, coefficients: torch.Tensor) -> torch.Tensor:
        """K between `rows` and the training images, times the coefficients."""
        left = _left(coefficients)
        outputs = coefficients.new_zeros(coefficients.shape[1], len(rows))

        def share(here: slice, columns: slice) -> torch.Tensor:
            return product(left[columns.start], self._tile(rows, here, columns))

        with cores(outputs.device) as threads:
            for here in pieces(len(rows)):
                for found in threads.map(share, repeat(here), pieces(self.n)):
                    outputs[:, here] += found
                    self.beat()
        return outputs.T.contiguous()

    def _tile(self, left: Rows, rows: slice, columns: slice) -> torch.Tensor:
        inner = left.inner(rows, self.train, columns)
        return self.kernel(inner, left.squares[rows], self.train.squares[columns])


def _left(coefficients: torch.Tensor) -> dict[int, torch.Tensor]:
    """Pieces of the coefficients (n, r), transposed, by their first row; products are faster with
    them on the left."""
    return {rows.start: coefficients[rows].T.contiguous() for rows in pieces(len(coefficients))}


@dataclass(frozen=True)
class Solution:
    """What one label set's solution is and does.

    train: (n, K) float64 outputs on the training images; test: (m, K) on the test images.
    relative_residual: ‖Y - (K + λI)·A‖ / ‖Y‖, in float64; of a set solved beside many others,
        estimated from the random sample of rows, and `train` then takes the residual, which is at
        most TOLERANCE, for zero at all others. norm: √tr(Aᵀ·K·A), the minimum norm ‖w‖.
    smallest_pivot: of the factorisation.
    """

    train: torch.Tensor
    test: torch.Tensor
    relative_residual: float
    norm: float
    smallest_pivot: float


def solve(system: System, factor: Triangle, targets: list[torch.Tensor]) -> list[Solution]:
    """The solutions for several targets, each (n, K) float64, as one block of right-hand sides.

    In place of each last column the sum of all of a target's columns is solved for, once if it is
    the same: one-hot labels add up to 1.

    Raises:
        Breakdown: the refinement does not reach LIMIT.
    """
    totals: list[_Refined] = []
    pairs = []
    for target in targets:
        whole = target.sum(1, keepdim=True)
        known = [each for each in totals if torch.equal(each.target, whole)]
        totals += [] if known else [_Refined(whole)]
        pairs.append((_Refined(target[:, :-1]), known[0] if known else totals[-1]))
    sets = [*(each for each, _ in pairs), *totals]
    _refine(system, factor, sets)
    predicted = system.predictions(torch.cat([each.coefficients for each in sets], 1))
    predictions = dict(zip(sets, _columns(predicted, sets), strict=True))
    pivot = factor.smallest_pivot()
    solutions = []
    for target, (each, total) in zip(targets, pairs, strict=True):
        coefficients = _with_last(each.coefficients, total.coefficients)
        residual = _with_last(each.residual, total.residual)
        outputs = target - residual - system.ridge * coefficients
        norm = float((coefficients * outputs).sum().clamp(min=0).sqrt())
        if each.sampled or total.sampled:
            relative = _estimate(residual, target)
        else:
            relative = float(residual.norm() / target.norm())
        if not relative <= LIMIT:
            raise Breakdown(f"the refinement stopped at a relative residual of {relative:.1e}")
        test = _with_last(predictions[each], predictions[total])
        solutions.append(Solution(outputs, test, relative, norm, pivot))
    return solutions


def _with_last(columns: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """All K columns, from all but the last and their sum."""
    return torch.cat([columns, total - columns.sum(1, keepdim=True)], 1)


def _refine(system: System, factor: Triangle, sets: list[_Refined]) -> None:
    """Solve and correct until all sets have converged."""
    many = sum(each.target.shape[1] for each in sets) > FEW
    while active := [each for each in sets if not each.converged]:
        right = torch.cat([each.residual / each.size for each in active], 1)
        correction = factor.solve(right)
        for each, part in zip(active, _columns(correction, active), strict=True):
            each.proposed = each.coefficients + part * each.size
        if many and (hopeful := [each for each in active if each.relative**2 <= TOLERANCE]):
            _settle(system, hopeful)
            active = [each for each in active if not each.converged]
        if not active:
            break
        outputs = system.outputs(torch.cat([each.proposed for each in active], 1))
        for each, part in zip(active, _columns(outputs, active), strict=True):
            each.accept(part + system.ridge * each.proposed)


def _settle(system: System, sets: list[_Refined]) -> None:
    """Let those sets be whose proposed coefficients solve the equations of a sample of rows."""
    rows = _sample(system.n).to(sets[0].target.device)
    outputs = system.outputs_at(torch.cat([each.proposed for each in sets], 1), rows)
    for each, part in zip(sets, _columns(outputs, sets), strict=True):
        residual = torch.zeros_like(each.target)
        residual[rows] = each.target[rows] - part - system.ridge * each.proposed[rows]
        relative = _estimate(residual, each.target)
        if relative <= TOLERANCE:
            each.take(residual, relative)
            each.sampled = True


def _sample(n: int) -> torch.Tensor:
    """The rows at which residuals are computed, of n."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return order[: math.ceil(n / SAMPLE)]


def _estimate(residual: torch.Tensor, target: torch.Tensor) -> float:
    """‖residual‖ / ‖target‖, from the sampled rows of the residual."""
    rows = _sample(len(target)).to(target.device)
    share = len(rows) / len(target)
    return float(residual[rows].norm() / target.norm()) / math.sqrt(share)


class _Refined:
    """One set of right-hand sides on its way: it stops when it has converged, whatever becomes of
    the sets beside it. If it is `sampled`, its residual is zero outside the sampled rows."""

    def __init__(self, target: torch.Tensor) -> None:
        self.target = self.residual = target
        self.coefficients = self.proposed = torch.zeros_like(target)
        self.converged = not bool(target.any())  # of zeros, such as of a class without an image
        self.relative = 0.0 if self.converged else 1.0
        self.sampled = False

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
            self.take(residual, relative)
        self.converged = self.relative <= TOLERANCE or not advanced

    def take(self, residual: torch.Tensor, relative: float) -> None:
        """Take the proposed coefficients, which leave this residual."""
        self.coefficients, self.residual, self.relative = self.proposed, residual, relative
        self.converged = relative <= TOLERANCE


def _columns(block: torch.Tensor, sets: list[_Refined]) -> Sequence[torch.Tensor]:
    return block.split([each.target.shape[1] for each in sets], 1)
