"""Products of exact fits have the error of their precision, in threads of one core each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import llvmlite.binding
import numpy as np
import pytest
import torch

from randlabels.kernels import _float64, functions, products
from randlabels.kernels._float64 import COLUMNS, DEPTH, ROWS, multiply
from randlabels.kernels.products import WORTH, cores, product
from randlabels.kernels.rows import Rows
from randlabels.kernels.system import KernelSystem
from randlabels.model import SolveOptions
from randlabels.model.kernel import Kernel

CPU = torch.device("cpu")


def bound(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the error of each entry of a·bᵀ in float64, however it is summed (Higham 2002, 3.5)."""
    return a.shape[1] * 2.0**-53 * np.abs(a) @ np.abs(b).T


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 7, DEPTH, DEPTH + 1, 2 * DEPTH + 3])
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


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, WORTH - 1, WORTH, WORTH + 1])
def test_product_is_a_times_b_transposed_however_they_lie_in_memory(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, rows: int, wide: bool
) -> None:
    monkeypatch.setattr(products, "_wider_than_mkl", lambda: wide)
    a, b = torch.randn(rows, 90, dtype=dtype), torch.randn(70, 90, dtype=dtype)
    ways = [(x, y) for x in (a, turned(a)) for y in (b, turned(b))]
    with cores(CPU) as threads:
        for found in threads.map(product, *zip(*ways, strict=True)):
            assert found.dtype is dtype
            torch.testing.assert_close(found, a @ b.T)


def turned(matrix: torch.Tensor) -> torch.Tensor:
    """The same numbers, columns after columns."""
    return matrix.T.contiguous().T


@pytest.mark.parametrize(
    ("capability", "processor", "threads", "wide"),
    [
        ("AVX512", "znver5", 1, True),
        ("AVX512", "znver5", 2, False),
        ("AVX2", "znver3", 1, False),
        ("AVX512", "sapphirerapids", 1, False),
    ],
)
def test_own_float64_product_is_for_amd_processors_with_avx512_and_threads_of_one_core(
    monkeypatch: pytest.MonkeyPatch, capability: str, processor: str, threads: int, wide: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_name", lambda: processor)
    monkeypatch.setattr(products, "_wider_than_mkl", products._wider_than_mkl.__wrapped__)
    monkeypatch.setattr(_float64, "multiply", lambda a, b, result: result.fill(7))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    a = torch.randn(WORTH, 40, dtype=torch.float64)
    assert bool((product(a, a) == 7).all()) == wide


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


def test_functions_are_compiled_where_no_folder_can_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(
        "from randlabels.native import compiled\n@compiled\ndef twice(x):\n    return 2 * x\n"
    )
    for taken in ("__pycache__", "home"):  # where files are, no folder can be made
        (tmp_path / taken).write_text("")
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME"), str(tmp_path / "home"))
    done = subprocess.run(
        [sys.executable, "-c", "from twice import *; print(twice(1.5), twice.stats.cache_path)"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": "", **places},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("3.0 None\n", "")


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
