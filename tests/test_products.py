"""Products of exact fits have the error of their precision, in threads of one core each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from randlabels.kernels import functions, products
from randlabels.kernels._float64 import COLUMNS, DEPTH, ROWS, multiply
from randlabels.kernels.products import WORTH, cores, product
from randlabels.kernels.rows import Rows
from randlabels.kernels.system import KernelSystem
from randlabels.models import SolveOptions
from randlabels.models.kernel import Kernel


def bound(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the error of each entry of a·bᵀ in float64, however it is summed (Higham 2002, 3.5)."""
    return a.shape[1] * 2.0**-53 * np.abs(a) @ np.abs(b).T


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("depth", [1, 7, DEPTH, DEPTH + 1, 2 * DEPTH + 3])
@pytest.mark.parametrize("columns", [1, COLUMNS - 1, COLUMNS, 2 * COLUMNS + 5])
@pytest.mark.parametrize("rows", [ROWS, ROWS + 1, 3 * ROWS - 1])
def test_float64_product_is_that_of_longer_numbers_rounded(
    rows: int, columns: int, depth: int, turned: bool
) -> None:
    rng = np.random.default_rng(depth)
    a = rng.standard_normal((rows, depth + 2))[:, 1:-1]  # rows do not touch in memory
    b = rng.standard_normal((depth, columns)).T if turned else rng.standard_normal((columns, depth))
    result = np.full((rows, columns + 2), np.nan)
    multiply(a, b, result[:, 1:-1])
    exact = a.astype(np.longdouble) @ b.astype(np.longdouble).T
    assert (np.abs(result[:, 1:-1] - exact) <= bound(a, b)).all()
    assert np.isnan(result[:, [0, -1]]).all(), "nothing beside the result is written to"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, WORTH - 1, WORTH, WORTH + 1])
def test_product_in_a_thread_of_one_core_is_a_times_b_transposed(
    dtype: torch.dtype, rows: int
) -> None:
    a, b = torch.randn(rows, 90, dtype=dtype), torch.randn(70, 90, dtype=dtype)
    with cores() as threads:
        found, turned = threads.map(product, (a, a), (b, b.T.contiguous().T))
    for each in (found, turned):
        assert each.dtype is dtype
        torch.testing.assert_close(each, a @ b.T)


def test_wide_vectors_are_used_where_a_thread_has_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.randn(WORTH, 40, dtype=torch.float64)
    monkeypatch.setattr(products, "_wider_than_mkl", lambda: True)
    monkeypatch.setattr("randlabels.kernels._float64.multiply", lambda a, b, result: result.fill(7))
    with cores() as threads:
        assert bool((threads.submit(product, a, a).result() == 7).all())
    if torch.get_num_threads() > 1:
        torch.testing.assert_close(product(a, a), a @ a.T)


def test_cores_are_given_back_whatever_happens_on_them() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), cores() as threads:
        assert torch.get_num_threads() == 1
        assert set(threads.map(lambda _: torch.get_num_threads(), range(8))) == {1}
        threads.submit(lambda: 1 // 0).result()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("sets", [1, WORTH])
def test_outputs_do_not_depend_on_the_number_of_threads(small_blocks: None, sets: int) -> None:
    rng = torch.Generator().manual_seed(0)
    train, test = (torch.rand(n, 9, generator=rng) for n in (150, 70))
    coefficients = torch.randn(150, sets, dtype=torch.float64, generator=rng)
    found = []
    before = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            each = KernelSystem(Rows(train), Rows(test), functions.gaussian(0.5), 0.0)
            found.append((each.outputs(coefficients), each.predictions(coefficients)))
    finally:
        torch.set_num_threads(before)
    for rows, outputs in zip((train, test), found[0], strict=True):
        kernel = torch.exp(-0.5 * torch.cdist(rows.double(), train.double()).square())
        torch.testing.assert_close(outputs, kernel @ coefficients)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_exact_fit_can_be_stopped_at_every_tile(small_blocks: None) -> None:
    """While K is built, while it is factorised, and while a residual is computed."""
    images, targets = torch.rand(110, 1, 5, 5), torch.randn(100, 2, dtype=torch.float64)

    def fit(tick: Callable[[float], None]) -> None:
        options = SolveOptions(torch.float64, tick=tick)
        Kernel(gamma=1.0).solve(images[:100], images[100:], [targets], torch.Generator(), options)

    shares: list[float] = []
    fit(shares.append)
    of_factor = [i for i, share in enumerate(shares) if share]
    head, tiles, above = 4, 10, 6  # of 4 rows of tiles
    assert of_factor[0] == head + tiles
    assert len(shares) - 1 - of_factor[-1] == above

    for last in range(len(shares)):
        left = iter(range(last))

        def stop(share: float, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(stop)
        assert next(left, None) is None
