"""Matrix products of exact fits, each by what is fastest and as exact; threads of one core each."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a·bᵀ for (m, k) and (n, k), in their own precision.

    MKL, which torch takes, uses half of a vector of AMD's processors (Zen 5, 2 cores: 200 GFLOP/s
    in float32, 110 in float64). In float32 oneDNN has 410; b may be a transposed matrix, but rows
    must follow each other in memory.
    """
    on_cpu = a.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if on_cpu and a.dtype is torch.float32:
        b = b if b.T.is_contiguous() else b.contiguous()
        linear: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            a.contiguous(), b, None, "none", [], ""
        )
        return linear
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
