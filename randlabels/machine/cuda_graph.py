"""One training step: as it is written on a CPU, as a CUDA graph on a GPU."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

import torch

log = logging.getLogger("randlabels")

WARM_UP = 3
"""Full batches before a step is captured (PyTorch's notes on CUDA graphs): in them libraries choose
their kernels, and the optimizer makes its moments."""

Work = Callable[[], None]

_capturing = threading.Lock()  # one capture at a time in a process that has several runs


class Step:
    """Calls `body` with the positions of a batch, (B,) int64 on the device.

    With `capture`, the body of a full batch of `size` is captured once it has been called WARM_UP
    times, and from then on replayed: one launch in place of hundreds. What it reads and changes
    then has to stay where it is, so that callers change tensors in place and seed generators anew
    instead of making others. Smaller batches are never captured. A body that cannot be captured,
    such as one of a model that waits for the device, goes on as it is written.
    """

    def __init__(
        self,
        body: Callable[[torch.Tensor], None],
        size: int,
        capture: Callable[[Work], Work] | None = None,
    ) -> None:
        self.body = body
        self.size = size
        self.capture = capture
        self.called = 0
        self.batch: torch.Tensor | None = None
        self.replay: Work | None = None

    def __call__(self, batch: torch.Tensor) -> None:
        if self.capture is None or len(batch) < self.size:
            self.body(batch)
        elif self.replay is not None and self.batch is not None:
            self.batch.copy_(batch)
            self.replay()
        elif self.called < WARM_UP:
            self.called += 1
            self.body(batch)
        else:
            self._capture(batch)
            self(batch)

    def _capture(self, batch: torch.Tensor) -> None:
        """Record the body, without executing it, for the positions that will stand in a copy."""
        assert self.capture is not None
        positions = self.batch = batch.clone()
        try:
            self.replay = self.capture(lambda: self.body(positions))
        except RuntimeError as error:
            self.capture = None
            log.warning("Training steps are launched kernel by kernel: %s", error)


def graphs(
    optimizer: torch.optim.Optimizer, generators: Iterable[torch.Generator]
) -> Callable[[Work], Work]:
    """A `capture` of steps of `optimizer` on the current GPU, which draw from `generators`."""

    def capture(work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        groups = [group for group in optimizer.param_groups if "capturable" in group]
        with _capturing:
            for group in groups:
                group["capturable"] = True
            try:
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    work()
            finally:
                for group in groups:
                    group["capturable"] = False
        return graph.replay

    return capture
