"""One training step: called as it is written on a CPU, replayed as a CUDA graph on a GPU."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from ..console import log
from .gpu import is_out_of_memory

WARM_UP_STEPS = 3  # full batches before a capture, as in PyTorch's notes on CUDA graphs
Work = Callable[[], None]


@dataclass
class Step:
    """Call `body` with the positions of a batch, (B,) int64 on the device.

    With `capture`, the body of a full batch of `size` is captured after WARM_UP_STEPS calls and
    replayed from then on: one launch instead of hundreds. Callers must change its tensors and
    reseed its generators in place. A body that cannot be captured, because its model waits for the
    device for instance, is called in every step. torch.OutOfMemoryError is raised in a capture too.

    captured: whether steps are replayed; None before the first capture.
    """

    body: Callable[[torch.Tensor], None]
    size: int
    capture: Callable[[Work], Work] | None = None
    captured: bool | None = None
    called: int = 0
    batch: torch.Tensor | None = None
    replay: Work | None = None

    def __call__(self, batch: torch.Tensor) -> None:
        if self.capture is None or len(batch) < self.size:
            self.body(batch)
        elif self.replay is not None and self.batch is not None:
            self.batch.copy_(batch)
            self.replay()
        elif self.called < WARM_UP_STEPS:
            self.called += 1
            self.body(batch)
        else:
            self._capture(batch)
            self(batch)

    def _capture(self, batch: torch.Tensor) -> None:
        """Record the body, without executing it, for the positions that a copy will hold."""
        assert self.capture is not None
        positions = self.batch = batch.clone()
        try:
            self.replay = self.capture(lambda: self.body(positions))
        except RuntimeError as error:
            # After an exception in the body, torch raises one that says only that there was one.
            cause = error.__context__ or error
            if is_out_of_memory(cause):
                raise cause from None
            self.capture = None
            log.warning("Training steps run without a CUDA graph: %s", cause)
        self.captured = self.replay is not None


def graphs(
    device: str, optimizer: torch.optim.Optimizer, generators: Iterable[torch.Generator]
) -> Callable[[Work], Work] | None:
    """Return a `capture` for steps of `optimizer` that draw from `generators`; None on a CPU.

    It captures on the current stream, which must not be the default one. By itself, torch captures
    on one stream for the whole process, of the device that was current first.
    """

    def capture(work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        groups = [group for group in optimizer.param_groups if "capturable" in group]
        for group in groups:
            group["capturable"] = True
        try:
            stream = torch.cuda.current_stream()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                work()
        finally:
            for group in groups:
                group["capturable"] = False
        return graph.replay

    return None if device == "cpu" else capture
