"""Products of exact fits have the error of their precision, in threads of one core each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch

from randlabels.kernels import functions
from randlabels.kernels.products import cores, product
from randlabels.kernels.rows import Rows
from randlabels.kernels.system import KernelSystem
from randlabels.model import SolveOptions
from randlabels.model.kernel import Kernel

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 65])
def test_product_is_a_times_b_transposed_however_they_lie_in_memory(
    dtype: torch.dtype, rows: int
) -> None:
    a, b = torch.randn(rows, 90, dtype=dtype), torch.randn(70, 90, dtype=dtype)
    ways = [(x, y) for x in (a, turned(a)) for y in (b, turned(b))]
    with cores(CPU) as threads:
        for found in threads.map(product, *zip(*ways, strict=True)):
            assert found.dtype is dtype
            torch.testing.assert_close(found, a @ b.T)


def turned(matrix: torch.Tensor) -> torch.Tensor:
    """The same numbers, columns after columns."""
    return matrix.T.contiguous().T


def test_cores_are_given_back_whatever_happens_on_them() -> None:
    before = torch.get_num_threads()
    begun = []

    def slow(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return 1 // number

    with pytest.raises(ZeroDivisionError), cores(CPU) as threads:
        assert torch.get_num_threads() == 1
        assert set(threads.map(lambda _: torch.get_num_threads(), range(8))) == {1}
        held = threads.map(slow, range(100))  # which begins with the division by zero
        next(held)
    assert torch.get_num_threads() == before
    assert len(begun) < 20, "what had not begun was given up"


@pytest.mark.parametrize("sets", [1, 64])
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
    head, tiles, predicted = 4, 10, 4  # of 4 rows of tiles
    assert of_factor[0] == head + tiles
    assert len(shares) - 1 - of_factor[-1] == tiles + predicted

    for last in range(len(shares)):
        left = iter(range(last))

        def stop(share: float, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(stop)
