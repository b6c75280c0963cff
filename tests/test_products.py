"""Matrix products of exact fits against NumPy: float32, float64, and exact whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from randlabels.kernels.products import EXACT_TERMS, integer_product, product, subtract_product


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
            target = torch.full((rows, 70), 3.0, dtype=dtype)
            subtract_product(target, x, y)
            np.testing.assert_allclose(target, 3 - expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("terms", [1, EXACT_TERMS, 3 * EXACT_TERMS + 5])
def test_integer_product_is_exact_for_random_and_for_extreme_numbers(terms: int) -> None:
    rng = np.random.default_rng(terms)
    a, b = (rng.integers(-128, 128, (rows, terms), dtype=np.int8) for rows in (9, 7))
    a[0] = b[0] = -128
    a[1] = 127
    found = integer_product(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_array_equal(found, a.astype(np.int64) @ b.T.astype(np.int64))
