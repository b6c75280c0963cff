"""Matrix products of exact fits."""

from __future__ import annotations

import torch

EXACT_TERMS = 1024
"""Products of int8 numbers that float32 sums without rounding: 128² · 1024 = 2²⁴."""


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a·bᵀ for (m, k) and (n, k), in their own precision.

    On a CPU, float32 goes through oneDNN: torch's own route, MKL, uses only half of an AVX-512
    vector on processors of AMD.
    """
    fast = a.dtype is torch.float32 and torch.backends.mkldnn.is_available()
    if not fast or a.device.type != "cpu":
        return a @ b.T
    b = b if b.T.is_contiguous() else b.contiguous()
    linear: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        a.contiguous(), b, None, "none", [], ""
    )
    return linear


def integer_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a·bᵀ (m, n) float64 for (m, k) and (n, k) int8, exactly, at the speed of float32."""

    def partial(start: int) -> torch.Tensor:
        x, y = (matrix[:, start : start + EXACT_TERMS].float() for matrix in (a, b))
        return product(x, y)

    total = partial(0).double()
    for start in range(EXACT_TERMS, a.shape[1], EXACT_TERMS):
        total += partial(start)
    return total
