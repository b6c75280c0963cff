"""Matrix products of exact fits, each by what is fastest and as exact; threads of one core each."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch

WORTH = 64
"""Rows of the left matrix from which the float64 product is our own. With 64 it has 156 GFLOP/s and
MKL's 98, with 8 it has 57 and MKL's 60 (Zen 5, 2 cores, a right matrix of 1000 by 1000)."""


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a·bᵀ for (m, k) and (n, k), in their own precision.

    MKL, which torch takes, uses half of a vector of AMD's processors (Zen 5, 2 cores: 200 GFLOP/s
    in float32, 110 in float64). In float32 oneDNN has 410; b may be a transposed matrix, but rows
    must follow each other in memory. In float64 `_float64` has 200, in threads of one core each.
    """
    if a.device.type == "cpu":
        if a.dtype is torch.float32 and torch.backends.mkldnn.is_available():
            b = b if b.T.is_contiguous() else b.contiguous()
            linear: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                a.contiguous(), b, None, "none", [], ""
            )
            return linear
        if a.dtype is torch.float64 and len(a) >= WORTH and _fills_vectors():
            from ._float64 import multiply

            result = a.new_empty(len(a), len(b))
            multiply(a.contiguous().numpy(), b.numpy(), result.numpy())
            return result
    return a @ b.T


@contextmanager
def cores(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch has here, each of which computes on one core; one for a GPU.

    Meanwhile the caller computes on one core too: torch's own threads would keep the others for
    milliseconds after each operation, waiting for the next. What has not begun when an exception
    leaves is not computed.
    """
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    several = number if device.type == "cpu" else 1
    threads = ThreadPoolExecutor(several, "core", torch.set_num_threads, (1,))
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)
        torch.set_num_threads(number)


def _fills_vectors() -> bool:
    """This thread has one core, and that core vectors of which MKL uses half."""
    return torch.get_num_threads() == 1 and _wider_than_mkl()


@cache
def _wider_than_mkl() -> bool:
    """The processor is an AMD with AVX512; MKL uses AVX2 of it."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    from llvmlite import binding

    return str(binding.get_host_cpu_name()).startswith("znver")
