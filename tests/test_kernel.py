"""The kernel solution against plain float64 references: factor, kernels, features, refinement."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from randlabels.kernels import functions, system
from randlabels.kernels.cholesky import Breakdown, Triangle
from randlabels.kernels.rows import Rows
from randlabels.model import SolveOptions, kernel
from randlabels.model.kernel import Kernel


def positive(n: int) -> torch.Tensor:
    """A well-conditioned positive definite matrix (n, n) float64."""
    rng = torch.Generator().manual_seed(n)
    a = torch.randn(n, n, generator=rng, dtype=torch.float64)
    return a @ a.T / n + torch.eye(n, dtype=torch.float64)


def triangle(matrix: torch.Tensor, dtype: torch.dtype) -> Triangle:
    filled = Triangle.empty(len(matrix), dtype, "cpu")
    filled.fill(lambda rows, columns: matrix[rows, columns].clone())
    return filled


@pytest.mark.parametrize("n", [1, 31, 32, 64, 65, 200])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_factor_in_blocks_solves_as_scipy_does(
    small_blocks: None, n: int, dtype: torch.dtype, tolerance: float
) -> None:
    matrix = positive(n)
    right = torch.randn(n, 3, dtype=torch.float64)
    factor = triangle(matrix, dtype)
    done = []
    factor.factorise(done.append)
    solution = factor.solve(right.to(dtype)).double()
    expected = scipy.linalg.solve(matrix.numpy(), right.numpy(), assume_a="pos")
    np.testing.assert_allclose(solution, expected, atol=tolerance, rtol=tolerance)
    lower = scipy.linalg.cholesky(matrix.numpy(), lower=True)
    assert factor.smallest_pivot() == pytest.approx(lower.diagonal().min() ** 2, rel=1e-4)
    assert sum(done) == pytest.approx(factor.operations())
    assert n < 200 or factor.operations() > n**3 / 3


def test_triangle_takes_half_the_memory_of_its_matrix() -> None:
    assert Triangle.size(60_000) * 4 < 7.5e9
    assert Triangle.size(60_000) < 0.52 * 60_000**2


@pytest.mark.parametrize("row", [3, 77])
def test_factor_that_breaks_down_names_the_row(small_blocks: None, row: int) -> None:
    matrix = torch.eye(100, dtype=torch.float64)
    matrix[row, row] = -1.0
    with pytest.raises(Breakdown, match=f"row {row} is not positive"):
        triangle(matrix, torch.float32).factorise()


def test_pixels_have_exact_inner_products() -> None:
    codes = torch.randint(0, 256, (50, 784), generator=torch.Generator().manual_seed(0))
    rows = Rows(codes.float() / 255)
    assert rows.exact
    whole = [[int((a * b).sum()) for b in codes] for a in codes]
    found = rows.inner(slice(0, 50), rows, slice(0, 50))
    np.testing.assert_array_equal(found, np.array(whole) / 255**2)
    np.testing.assert_allclose(rows.squares, found.diagonal(), rtol=1e-14)


def test_other_rows_have_float64_inner_products() -> None:
    values = torch.randn(40, 30)
    rows = Rows(values)
    assert not rows.exact
    expected = values.double() @ values.double().T
    np.testing.assert_allclose(rows.inner(slice(3, 9), rows, slice(5, 40)), expected[3:9, 5:])


def test_kernels_are_their_formulas() -> None:
    x = np.random.default_rng(0).random((20, 6))
    rows = Rows(torch.from_numpy(x).float())
    x = rows.values.double().numpy()
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = {
        "gaussian": (functions.gaussian(0.3), np.exp(-0.3 * distance**2)),
        "laplacian": (functions.laplacian(0.3), np.exp(-0.3 * distance)),
        "polynomial": (functions.polynomial(4), (unit @ unit.T) ** 4),
        "linear": (functions.linear(), x @ x.T),
    }
    for name, (function, values) in expected.items():
        inner = rows.inner(slice(0, 20), rows, slice(0, 20))
        found = function(inner, rows.squares, rows.squares)
        np.testing.assert_allclose(found, values, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_solution_outputs_and_norm_are_those_of_the_plain_formula(
    small_blocks: None, ridge: float
) -> None:
    rng = torch.Generator().manual_seed(0)
    train, test = (torch.randn(n, 8, generator=rng) for n in (150, 70))
    targets = [torch.randn(150, k, generator=rng, dtype=torch.float64) for k in (3, 2)]
    equations = system.KernelSystem(Rows(train), Rows(test), functions.gaussian(0.2), ridge)
    factor = Triangle.empty(150, torch.float32, "cpu")
    factor.fill(equations.tile, equations.ridge)
    factor.factorise()
    solutions = system.solve(equations, factor, targets)

    x, z = train.double().numpy(), test.double().numpy()

    def k(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.2 * ((a[:, None] - b[None]) ** 2).sum(2))

    for target, solution in zip(targets, solutions, strict=True):
        a = scipy.linalg.solve(k(x, x) + ridge * np.eye(150), target.numpy())
        np.testing.assert_allclose(solution.train, k(x, x) @ a, atol=1e-5)
        np.testing.assert_allclose(solution.test, k(z, x) @ a, atol=1e-5)
        assert solution.norm == pytest.approx(np.sqrt(np.trace(a.T @ k(x, x) @ a)), rel=1e-5)
        assert solution.relative_residual <= system.LIMIT


def gaussian_system(n: int, gamma: float) -> tuple[system.KernelSystem, Triangle]:
    """Of n random rows, and its float32 factor."""
    rows = Rows(torch.rand(n, 100, generator=torch.Generator().manual_seed(0)))
    equations = system.KernelSystem(rows, rows, functions.gaussian(gamma), 0.0)
    factor = Triangle.empty(n, torch.float32, "cpu")
    factor.fill(equations.tile, equations.ridge)
    factor.factorise()
    return equations, factor


def test_float64_head_makes_a_float32_factor_twenty_times_as_accurate() -> None:
    """A factor of float32 products alone leaves a residual of 1.6e-2 here."""
    equations, factor = gaussian_system(2000, 0.003)
    target = torch.randn(2000, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    residual = target - equations.outputs(factor.solve(target))
    assert residual.norm() < 1e-3 * target.norm()


def test_many_sets_cost_one_float64_product_and_are_the_solutions_of_single_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    equations, factor = gaussian_system(600, 0.03)
    rng = torch.Generator().manual_seed(1)
    targets = [torch.randn(600, 10, generator=rng, dtype=torch.float64) for _ in range(7)]
    alone = [system.solve(equations, factor, [target])[0] for target in targets]
    products = []
    original = system.KernelSystem.outputs

    def outputs(self: system.KernelSystem, coefficients: torch.Tensor) -> torch.Tensor:
        products.append(coefficients.shape[1])
        return original(self, coefficients)

    monkeypatch.setattr(system.KernelSystem, "outputs", outputs)
    together = system.solve(equations, factor, targets)
    assert products == [70]
    for target, one, same in zip(targets, alone, together, strict=True):
        np.testing.assert_allclose(same.test, one.test, atol=1e-7)
        np.testing.assert_allclose(same.train, one.train, atol=1e-6)
        assert same.norm == pytest.approx(one.norm, rel=1e-6)
        # The sample's estimate is of the size of the true residual.
        assert one.relative_residual / 2 < same.relative_residual < 2 * one.relative_residual
        assert same.relative_residual < system.TOLERANCE
        assert not torch.equal(same.train, target)  # at the sampled rows


def test_columns_that_follow_from_others_are_not_solved_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The columns of one-hot labels add up to 1, whatever the labels; one class has no image."""
    equations, factor = gaussian_system(300, 0.03)
    rng = torch.Generator().manual_seed(1)
    labels = [torch.randint(0, 3, (300,), generator=rng) for _ in range(4)]
    targets = [torch.nn.functional.one_hot(each, 4).double() for each in labels]
    solved = []
    original = Triangle.solve

    def solve(self: Triangle, right: torch.Tensor) -> torch.Tensor:
        solved.append(right.shape[1])
        return original(self, right)

    monkeypatch.setattr(Triangle, "solve", solve)
    solutions = system.solve(equations, factor, targets)
    assert solved[0] == 4 * 3 + 1
    k = equations.tile(slice(0, 300), slice(0, 300)).numpy()
    for target, solution in zip(targets, solutions, strict=True):
        a = scipy.linalg.solve(k, target.numpy())
        np.testing.assert_allclose(solution.test, k @ a, atol=1e-6)
        assert solution.norm == pytest.approx(np.sqrt(np.trace(a.T @ k @ a)), rel=1e-6)
        left = float((target - solution.train).norm() / target.norm())
        assert solution.relative_residual == pytest.approx(left)


def test_sample_that_shows_no_solution_is_followed_by_a_whole_product() -> None:
    equations, factor = gaussian_system(600, 0.03)
    targets = [torch.eye(600, 70, dtype=torch.float64)]
    original, rounds = equations.outputs_at, []

    def disturbed(coefficients: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        rounds.append(len(rows))
        return original(coefficients, rows) * (1 + 1e-6)

    equations.outputs_at = disturbed  # type: ignore[method-assign]
    (solution,) = system.solve(equations, factor, targets)
    assert rounds == [20] and solution.relative_residual < 1e-8
    np.testing.assert_allclose(solution.train, targets[0], atol=1e-7)
    assert not torch.equal(solution.train, targets[0])


def test_memory_sets_how_many_labels_are_solved_at_once_and_equal_ones_are_solved_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 3, 3, generator=rng)
    model = Kernel(gamma=1.0)
    distinct = [torch.randn(40, 2, generator=rng, dtype=torch.float64) for _ in range(5)]
    targets = [*distinct, distinct[0].clone(), distinct[3].clone()]
    blocks = []
    original = system.solve

    def solve(
        equations: system.System, factor: Triangle, block: list[torch.Tensor]
    ) -> list[system.Solution]:
        blocks.append(len(block))
        return original(equations, factor, block)

    monkeypatch.setattr(system, "solve", solve)
    for room, expected in ((0, [1] * 5), (2, [2, 2, 1]), (2**20, [5])):
        one = model.check(images, 40, 2, SolveOptions(torch.float64))
        each = kernel.ARRAYS * 40 * 2 * 8
        options = SolveOptions(torch.float64, memory=one + (room - 1) * each)
        fits = model.solve(images, images, targets, rng, options)
        assert blocks == expected
        blocks.clear()
        for target, fit in zip(targets, fits, strict=True):
            np.testing.assert_allclose(fit.train, target, atol=1e-6)


def test_refinement_that_does_not_arrive_is_refused(small_blocks: None) -> None:
    """Equal rows make K singular; rounding hides it from the factorisation, but not from this."""
    x = torch.randn(80, 4)
    equations = system.KernelSystem(Rows(x), Rows(x), functions.gaussian(0.2), 0.0)
    factor = triangle(torch.eye(80, dtype=torch.float64), torch.float32)  # of another matrix
    factor.factorise()
    with pytest.raises(Breakdown, match="stopped at a relative residual of"):
        system.solve(equations, factor, [torch.randn(80, 1, dtype=torch.float64)])


def test_refinement_with_a_poor_factor_arrives_in_more_steps(small_blocks: None) -> None:
    """The factor is of 1.4·K, so that each step leaves 2/7 of the residual."""
    x = torch.randn(80, 200, generator=torch.Generator().manual_seed(0))
    equations = system.KernelSystem(Rows(x), Rows(x), functions.linear(), 0.0)
    factor = triangle(1.4 * x.double() @ x.double().T, torch.float64)
    factor.factorise()
    (solution,) = system.solve(equations, factor, [torch.randn(80, 1, dtype=torch.float64)])
    assert solution.relative_residual <= system.TOLERANCE


def test_factor_of_nothing_but_nan_ends_the_refinement(small_blocks: None) -> None:
    rows = Rows(torch.eye(6))
    equations = system.KernelSystem(rows, rows, functions.linear(), 0.0)
    factor = Triangle.empty(6, torch.float32, "cpu")
    factor.values.fill_(math.nan)
    with pytest.raises(Breakdown, match="stopped at a relative residual of 1"):
        system.solve(equations, factor, [torch.eye(6, dtype=torch.float64)])


@pytest.mark.data
@pytest.mark.timeout(600)
@pytest.mark.parametrize("n", [5_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mnist_is_classified_as_by_scipy(n: int, real_data: Path) -> None:
    from torchvision.datasets import MNIST

    parts = [MNIST(str(real_data), train=train) for train in (True, False)]
    x, z = (part.data.flatten(1).float() / 255 for part in parts)
    x, y = x[:n], torch.nn.functional.one_hot(parts[0].targets[:n], 10).double()
    model = Kernel()
    fit = model.solve(
        x.view(-1, 1, 28, 28),
        z.view(-1, 1, 28, 28),
        [y],
        torch.Generator(),
        SolveOptions(torch.float32),
    )[0]
    pixels, unseen = ((part.data.flatten(1).double() / 255).numpy() for part in parts)
    pixels = pixels[:n]

    def k(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        distance = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        return np.exp(-0.02 * distance)

    coefficients = scipy.linalg.solve(k(pixels, pixels), y.numpy(), assume_a="pos")
    expected = k(unseen, pixels) @ coefficients
    np.testing.assert_array_equal(fit.test.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(fit.test, expected, atol=1e-4)
