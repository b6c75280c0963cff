"""GPU support of a run: arithmetic, streams, captured training steps, and loss of the device.

If the device is "cpu", every function does nothing, or returns the right value for a CPU.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle
from pathlib import Path

import torch

from ..console import log

DEVICE_LOST_EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h
MAX_QUEUED_STEPS = 8  # enough to keep the GPU busy, few enough to stop within a second
WARM_UP_STEPS = 3  # full batches before a capture, as in PyTorch's notes on CUDA graphs
OUT_OF_MEMORY = re.compile(
    r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUDA error: out of memory"
)
Work = Callable[[], None]


def set_arithmetic() -> None:
    """Use IEEE fp32 instead of TF32 on GPUs, and deterministic kernels of cuDNN.

    `torch.compile` reads this older interface of torch, and fails once the newer one is set.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


_stream = cache(lambda device: torch.cuda.Stream(device))  # cuBLAS keeps a workspace for each one


def stream(device: str) -> AbstractContextManager[object]:
    """Return a context in which work goes to a stream, as captures of graphs need."""
    return nullcontext() if device == "cpu" else torch.cuda.stream(_stream(device))


class Pace:
    """Call after each training step to keep at most MAX_QUEUED_STEPS of them queued on a GPU.

    Otherwise the CPU queues a whole epoch at once, and a signal waits until the GPU has caught up.
    """

    def __init__(self, device: str) -> None:
        number = 0 if device == "cpu" else MAX_QUEUED_STEPS
        self.events = cycle([torch.cuda.Event() for _ in range(number)])

    def __call__(self) -> None:
        if event := next(self.events, None):
            event.synchronize()  # of MAX_QUEUED_STEPS steps ago; returns at once if never recorded
            event.record()


@dataclass
class Step:
    """Call `body` with the positions of a batch, (B,) int64 on the device.

    With `capture`, the body of a full batch of `size` is captured after WARM_UP_STEPS calls and
    replayed from then on: one launch instead of hundreds. Callers must change its tensors and
    reseed its generators in place. A body that cannot be captured is called in every step.

    captured: whether steps are replayed; None before the first capture.
    """

    body: Callable[[torch.Tensor], None]
    size: int
    capture: Callable[[Work], Work] | None = None
    captured: bool | None = None
    called: int = 0
    batch: torch.Tensor = field(init=False)
    replay: Work = field(init=False)

    def __call__(self, batch: torch.Tensor) -> None:
        full = self.capture is not None and len(batch) == self.size
        if full and self.captured is None and self.called == WARM_UP_STEPS:
            self._capture(batch.clone())
        if full and self.captured:
            self.batch.copy_(batch)
            self.replay()
        else:
            self.called += full
            self.body(batch)

    def _capture(self, positions: torch.Tensor) -> None:
        """Record the body, without executing it, for the positions that this copy will hold."""
        assert self.capture is not None
        self.batch = positions
        try:
            self.replay = self.capture(lambda: self.body(positions))
        except RuntimeError as error:
            # After an exception in the body, torch raises one that says only that there was one.
            cause = error.__context__ or error
            if is_out_of_memory(cause):
                raise cause from None
            log.warning("Training steps run without a CUDA graph: %s", cause)
            self.captured = False
        else:
            self.captured = True


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


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a GPU had too little memory, as torch or one of its libraries says."""
    return isinstance(error, torch.OutOfMemoryError) or bool(OUT_OF_MEMORY.search(str(error)))


def exit_if_lost(device: str) -> None:
    """End this process if its GPU is lost to it, as after an illegal memory access."""
    if device == "cpu":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        sys.stdout.flush()
        print(
            f"{device} cannot be used by this process any more: {error}\n"
            "The process ends; the same command continues the runs that are left.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(DEVICE_LOST_EXIT_CODE)


def _count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _is_supported(index: int) -> bool:
    """Return whether this build of torch has code for the GPU's architecture.

    A binary for sm_86 runs on 8.6 and later 8.x; intermediate code for compute_86 on all later
    ones (CUDA C++ Programming Guide, "Compute Capabilities"). ROCm lists no such names.
    """
    major, minor = torch.cuda.get_device_capability(index)
    built = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(torch.cuda.get_arch_list()))
    return not built or any(
        (int(x), int(y)) <= (major, minor) and (kind == "compute" or int(x) == major)
        for kind, x, y in built
    )


def supported() -> list[int]:
    """Return the GPUs that this build of torch can compute on, by index."""
    return [index for index in range(_count()) if _is_supported(index)]


def why_unused() -> str | None:
    """Return a sentence if an NVIDIA GPU is here that this build of torch cannot use, else None."""
    for index in range(_count()):
        if not _is_supported(index):
            major, minor = torch.cuda.get_device_capability(index)
            return (
                f"{torch.cuda.get_device_name(index)} has compute capability {major}.{minor} and "
                f"PyTorch {torch.__version__} is built for {' '.join(torch.cuda.get_arch_list())}; "
                "install a build of PyTorch for this GPU to use it"
            )
    driver = shutil.which("nvidia-smi") or any(Path("/proc/driver/nvidia/gpus").glob("*"))
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if _count() or hidden or not driver:
        return None
    cuda = torch.version.cuda
    wanted = f"a driver for CUDA {cuda}" if cuda else "a build with CUDA"
    return (
        f"An NVIDIA driver is installed, but PyTorch {torch.__version__} finds no GPU that it can "
        f"use; it needs {wanted} (compare nvidia-smi)"
    )
