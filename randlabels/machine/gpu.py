"""GPU support of a run: arithmetic, streams, the length of the queue, and loss of the device.

If the device is "cpu", every function does nothing, or returns the right value for a CPU.
"""

import os
import re
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch

DEVICE_LOST_EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h
MAX_QUEUED_STEPS = 8  # enough to keep the GPU busy, few enough to stop within a second

OUT_OF_MEMORY = re.compile(
    r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUDA error: out of memory"
)


def set_arithmetic() -> None:
    """Make fp32 mean IEEE fp32 on GPUs, and cuDNN choose the same deterministic kernels each time.

    By default, torch computes fp32 convolutions with the 10-bit mantissas of TF32. This sets the
    older of torch's two interfaces: `torch.compile` reads it, and fails after the newer one is set.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def stream(device: str) -> AbstractContextManager[object]:
    """Return a context in which work goes to a stream, as captures of graphs need."""
    return nullcontext() if device == "cpu" else torch.cuda.stream(_stream(device))


@cache  # one stream for all runs of a process, since cuBLAS keeps a workspace for each
def _stream(device: str) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class Pace:
    """Call after each training step to keep at most MAX_QUEUED_STEPS of them queued on a GPU.

    Otherwise the CPU queues a whole epoch at once, and a signal waits until the GPU has caught up.
    """

    def __init__(self, device: str) -> None:
        number = 0 if device == "cpu" else MAX_QUEUED_STEPS
        self.events = [torch.cuda.Event() for _ in range(number)]
        self.steps = 0

    def __call__(self) -> None:
        if self.events:
            event = self.events[self.steps % len(self.events)]
            event.synchronize()  # of MAX_QUEUED_STEPS steps ago; returns at once if never recorded
            event.record()
            self.steps += 1


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


def count() -> int:
    """Return the number of GPUs that torch sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def is_supported(index: int) -> bool:
    """Return whether this build of torch has code for the GPU's architecture.

    A binary for sm_86 runs on 8.6 and later 8.x; intermediate code for compute_86 on all later
    ones (CUDA C++ Programming Guide, "Compute Capabilities"). ROCm lists no such names.
    """
    capability = torch.cuda.get_device_capability(index)
    built = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(torch.cuda.get_arch_list()))
    versions = [(kind, (int(major), int(minor))) for kind, major, minor in built]
    return not versions or any(
        version <= capability and (kind == "compute" or version[0] == capability[0])
        for kind, version in versions
    )


def supported() -> list[int]:
    """Return the GPUs that this build of torch can compute on, by index."""
    return [index for index in range(count()) if is_supported(index)]


def why_unused() -> str | None:
    """Return a sentence if an NVIDIA GPU is here that this build of torch cannot use, else None."""
    for index in range(count()):
        if not is_supported(index):
            major, minor = torch.cuda.get_device_capability(index)
            return (
                f"{torch.cuda.get_device_name(index)} has compute capability {major}.{minor} and "
                f"PyTorch {torch.__version__} is built for {' '.join(torch.cuda.get_arch_list())}; "
                "install a build of PyTorch for this GPU to use it"
            )
    driver = shutil.which("nvidia-smi") or any(Path("/proc/driver/nvidia/gpus").glob("*"))
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if count() or hidden or not driver:
        return None
    cuda = torch.version.cuda
    wanted = f"a driver for CUDA {cuda}" if cuda else "a build with CUDA"
    return (
        f"An NVIDIA driver is installed, but PyTorch {torch.__version__} finds no GPU that it can "
        f"use; it needs {wanted} (compare nvidia-smi)"
    )
