"""The kernel solution against NumPy and SciPy in float64: factor, kernels, refinement, MNIST."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn.functional import one_hot

from randlabels.kernels.cholesky import Breakdown, Triangle, product
from randlabels.kernels.system import MAX_RESIDUAL, KernelSystem, solutions
from randlabels.model import SolveOptions, kernel
from randlabels.model.kernel import Kernel


def column_major(matrix: torch.Tensor) -> torch.Tensor:
    """Return the same matrix, stored column after column."""
    return matrix.T.contiguous().T


@pytest.mark.parametrize("vectors", ["AVX2", "AVX512"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 65])
def test_product_is_a_times_b_transposed_in_any_memory_layout(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, rows: int, vectors: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    a, b = torch.randn(rows, 90, dtype=dtype), torch.randn(70, 90, dtype=dtype)
    expected = a.double().numpy() @ b.double().numpy().T
    for x in (a, column_major(a)):
        for y in (b, column_major(b)):
            found = product(x, y)
            assert found.dtype is dtype
            np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-5)


def positive_definite(n: int) -> torch.Tensor:
    """Return a well-conditioned positive definite matrix (n, n) float64."""
    rng = torch.Generator().manual_seed(n)
    a = torch.randn(n, n, generator=rng, dtype=torch.float64)
    return a @ a.T / n + torch.eye(n, dtype=torch.float64)


def fill_triangle(matrix: torch.Tensor, dtype: torch.dtype) -> Triangle:
    triangle = Triangle(len(matrix), dtype)
    triangle.fill(lambda rows, columns: matrix[rows, columns].clone())
    return triangle


def factorise_equations(equations: KernelSystem, dtype: torch.dtype = torch.float32) -> Triangle:
    factor = Triangle(equations.n, dtype)
    factor.fill(equations.tile, equations.ridge)
    factor.factorise()
    return factor


@pytest.mark.parametrize("n", [1, 31, 32, 64, 65, 200])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_factor_in_blocks_solves_as_scipy_does(
    small_blocks: None, n: int, dtype: torch.dtype, tolerance: float
) -> None:
    matrix = positive_definite(n)
    right = torch.randn(3, n, dtype=torch.float64)
    factor = fill_triangle(matrix, dtype)
    shares: list[float] = []
    factor.factorise(shares.append)
    expected = scipy.linalg.solve(matrix.numpy(), right.numpy().T, assume_a="pos").T
    np.testing.assert_allclose(factor.solve(right), expected, atol=tolerance, rtol=tolerance)
    lower = scipy.linalg.cholesky(matrix.numpy(), lower=True)
    assert factor.smallest_pivot() == pytest.approx(lower.diagonal().min() ** 2, rel=1e-4)
    assert n <= 8 or sum(shares) == pytest.approx(1)


def test_triangle_uses_half_the_memory_of_its_matrix() -> None:
    assert Triangle.size(60_000) < 0.52 * 60_000**2


def test_float64_head_makes_a_float32_factor_twenty_times_as_accurate() -> None:
    """A factor of float32 products alone leaves a residual of 1.6e-2 here."""
    rows = torch.rand(2000, 100, generator=torch.Generator().manual_seed(0))
    equations = KernelSystem(rows, rows, Kernel(gamma=0.003).between, 0.0)
    target = torch.randn(5, 2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    residual = target - equations.outputs(factorise_equations(equations).solve(target))
    assert residual.norm() < 1e-3 * target.norm()


@pytest.mark.parametrize("kind", ["gaussian", "laplacian", "polynomial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_images_make_a_singular_matrix(kind: str, dtype: torch.dtype) -> None:
    """Else contradictory labels of one image would be interpolated in the rounding errors."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (300, 1, 8, 8), generator=rng) / 255
    images[-1] = images[10]
    target = torch.randn(300, 2, generator=rng, dtype=torch.float64)
    with pytest.raises(ArithmeticError, match="singular in float.*larger model.ridge|residual"):
        Kernel(kernel=kind).solve(images, images, [target], rng, SolveOptions(dtype))


@pytest.mark.parametrize("row", [3, 77])
def test_breakdown_names_the_row(small_blocks: None, row: int) -> None:
    matrix = torch.eye(100, dtype=torch.float64)
    matrix[row, row] = -1.0
    with pytest.raises(Breakdown, match=f"row {row} is not positive"):
        fill_triangle(matrix, torch.float32).factorise()


def plain_kernels(x: np.ndarray, z: np.ndarray) -> dict[str, np.ndarray]:
    """Return each kernel between rows x and z by its formula, with γ = 0.3 and degree 4."""
    distance = np.linalg.norm(x[:, None] - z[None], axis=2)
    x_unit, z_unit = (
        each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-300) for each in (x, z)
    )
    return {
        "gaussian": np.exp(-0.3 * distance**2),
        "laplacian": np.exp(-0.3 * distance),
        "polynomial": (x_unit @ z_unit.T) ** 4,
        "linear": x @ z.T,
    }


@pytest.mark.parametrize("name", ["gaussian", "laplacian", "polynomial", "linear"])
def test_kernels_equal_their_formulas_also_for_a_black_image(name: str) -> None:
    values = torch.rand(20, 6, generator=torch.Generator().manual_seed(0))
    values[7] = 0.0
    equations = KernelSystem(values, values, Kernel(kernel=name, gamma=0.3).between, 0.0)
    expected = plain_kernels(*(values.double().numpy(),) * 2)[name]
    found = equations.tile(slice(0, 20), slice(0, 20))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    if name in ("gaussian", "laplacian"):
        assert (found.diagonal() == 1).all()


@pytest.mark.parametrize("name", ["polynomial", "linear"])
def test_black_image_is_fitted_with_a_ridge_and_named_without(name: str) -> None:
    images = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images[5] = 0.0
    target = torch.eye(12, dtype=torch.float64)

    def fit(ridge: float) -> torch.Tensor:
        model = Kernel(kernel=name, ridge=ridge)
        return model.solve(images, images, [target], torch.Generator(), SolveOptions())[0].test

    k = plain_kernels(*(images.flatten(1).double().numpy(),) * 2)[name]
    np.testing.assert_allclose(fit(0.5), k @ np.linalg.inv(k + 0.5 * np.eye(12)), atol=1e-6)
    with pytest.raises(ArithmeticError, match="row 5 is not positive; use a larger model.ridge"):
        fit(0.0)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_solution_equals_the_plain_formula_for_each_label_set(
    small_blocks: None, ridge: float
) -> None:
    """One of the sets has a class without an image."""
    rng = torch.Generator().manual_seed(0)
    train, test = (torch.randn(n, 8, generator=rng) for n in (150, 70))
    labels = torch.randint(0, 3, (150,), generator=rng)
    targets = [torch.randn(150, 3, generator=rng, dtype=torch.float64), one_hot(labels, 4).double()]
    equations = KernelSystem(train, test, Kernel(gamma=0.3).between, ridge)
    found = solutions(equations, factorise_equations(equations), targets)
    x, z = train.double().numpy(), test.double().numpy()
    k, cross = plain_kernels(x, x)["gaussian"], plain_kernels(z, x)["gaussian"]
    for target, solution in zip(targets, found, strict=True):
        a = scipy.linalg.solve(k + ridge * np.eye(150), target.numpy())
        np.testing.assert_allclose(solution.train, k @ a, atol=1e-5)
        np.testing.assert_allclose(solution.test, cross @ a, atol=1e-5)
        assert solution.report["norm"] == pytest.approx(np.sqrt(np.trace(a.T @ k @ a)), rel=1e-5)
        residual = target.numpy() - solution.train.numpy() - ridge * a
        relative = np.linalg.norm(residual) / np.linalg.norm(target)
        assert solution.report["relative_residual"] == pytest.approx(relative, abs=1e-6)
        assert solution.report["relative_residual"] <= MAX_RESIDUAL


def test_memory_limits_the_label_sets_solved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 3, 3, generator=rng)
    model = Kernel(gamma=1.0)
    targets = [torch.randn(40, 2, generator=rng, dtype=torch.float64) for _ in range(5)]
    blocks: list[int] = []
    original = kernel.solutions

    def count(equations: KernelSystem, factor: Triangle, block: list[torch.Tensor]) -> object:
        blocks.append(len(block))
        return original(equations, factor, block)

    monkeypatch.setattr(kernel, "solutions", count)
    one = model.check(images, 40, 2, SolveOptions())
    for sets, expected in ((0, [1] * 5), (2, [2, 2, 1]), (100, [5])):
        memory = one + (sets - 1) * kernel.BYTES_PER_TARGET * 40 * 2
        fits = model.solve(images, images, targets, rng, SolveOptions(memory=memory))
        assert blocks == expected
        blocks.clear()
        for target, fit in zip(targets, fits, strict=True):
            np.testing.assert_allclose(fit.train, target, atol=1e-6)


def test_factor_of_another_matrix_is_refused(small_blocks: None) -> None:
    rows = torch.randn(80, 4)
    equations = KernelSystem(rows, rows, Kernel(gamma=0.2).between, 0.0)
    factor = fill_triangle(torch.eye(80, dtype=torch.float64), torch.float32)
    factor.factorise()
    with pytest.raises(Breakdown, match="stopped at a relative residual of"):
        solutions(equations, factor, [torch.randn(80, 1, dtype=torch.float64)])


def test_factor_of_nan_is_refused(small_blocks: None) -> None:
    rows = torch.eye(6)
    equations = KernelSystem(rows, rows, Kernel(kernel="linear").between, 0.0)
    factor = Triangle(6, torch.float32)
    for _, panel in factor.panels:
        panel.fill_(math.nan)
    with pytest.raises(Breakdown, match="stopped at a relative residual of 1"):
        solutions(equations, factor, [torch.eye(6, dtype=torch.float64)])


def test_refinement_with_a_poor_factor_takes_more_rounds(small_blocks: None) -> None:
    """The factor is of 1.4·K, so that each round leaves 2/7 of the residual."""
    x = torch.randn(80, 200, generator=torch.Generator().manual_seed(0))
    equations = KernelSystem(x, x, Kernel(kernel="linear").between, 0.0)
    factor = fill_triangle(1.4 * x.double() @ x.double().T, torch.float64)
    factor.factorise()
    (solution,) = solutions(equations, factor, [torch.randn(80, 1, dtype=torch.float64)])
    assert solution.report["relative_residual"] <= MAX_RESIDUAL


def test_fit_can_be_stopped_at_every_tile(small_blocks: None) -> None:
    """While K is computed, while it is factorised, and while a residual is computed."""
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(140, 1, 5, 5, generator=rng)
    target = torch.randn(130, 2, generator=rng, dtype=torch.float64)

    def fit(tick: Callable[[float], None]) -> None:
        options = SolveOptions(tick=tick)
        Kernel(gamma=1.0).solve(images[:130], images[130:], [target], torch.Generator(), options)

    shares: list[float] = []
    fit(shares.append)
    assert sum(shares) == pytest.approx(1)
    factorisation = [index for index, share in enumerate(shares) if share]
    assert factorisation[0] > 10 and len(shares) - factorisation[-1] > 10  # tiles of K, of outputs
    for last in range(len(shares)):
        left = iter(range(last))

        def stop(share: float, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(stop)


@pytest.mark.data
@pytest.mark.timeout(600)
@pytest.mark.parametrize("n", [5_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mnist_is_classified_as_by_scipy(n: int, real_data: Path) -> None:
    from torchvision.datasets import MNIST

    splits = [MNIST(str(real_data), train=train) for train in (True, False)]
    images = [split.data[:, None].float() / 255 for split in splits]
    target = one_hot(splits[0].targets[:n], 10).double()
    options = SolveOptions(torch.float32)
    (fit,) = Kernel().solve(images[0][:n], images[1], [target], torch.Generator(), options)
    x, z = ((split.data.flatten(1).double() / 255).numpy() for split in splits)
    x = x[:n]

    def k(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        distance = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        return np.exp(-0.02 * distance)

    expected = k(z, x) @ scipy.linalg.solve(k(x, x), target.numpy(), assume_a="pos")
    np.testing.assert_array_equal(fit.test.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(fit.test, expected, atol=1e-4)
