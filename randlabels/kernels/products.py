"""Matrix products of exact fits."""

from __future__ import annotations

import torch
from torch import Tensor

EXACT_TERMS = 1024  # products of int8 numbers that float32 sums without rounding: 128²·1024 = 2²⁴


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a·bᵀ for (m, k) and (n, k), in their own precision.

    With AVX-512, float32 goes through oneDNN: torch's own route, MKL, uses only half of these
    vectors on processors of AMD.
    """
    if not _use_onednn(a):
        return a @ b.T
    b = b if b.T.is_contiguous() else b.contiguous()
    linear: Tensor = torch.ops.mkldnn._linear_pointwise(a.contiguous(), b, None, "none", [], "")
    return linear


def subtract_product(target: Tensor, a: Tensor, b: Tensor) -> None:
    """Subtract a·bᵀ from `target` (m, n), in place, for (m, k) and (n, k) of its dtype."""
    if _use_onednn(a):
        target.sub_(product(a, b))
    else:
        target.addmm_(a, b.T, alpha=-1)


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a·bᵀ (m, n) float64 for (m, k) and (n, k) int8, exactly, at the speed of float32."""
    parts = zip(a.split(EXACT_TERMS, 1), b.split(EXACT_TERMS, 1), strict=True)
    products = (product(x.float(), y.float()) for x, y in parts)
    total = next(products).double()
    for each in products:
        total += each
    return total


def _use_onednn(a: Tensor) -> bool:
    return (
        a.dtype is torch.float32
        and a.device.type == "cpu"
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
    )
