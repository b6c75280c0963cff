"""How a run computes on this machine: every `auto` decided, and what the machine lacks refused."""

import contextlib
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import joblib
import psutil
import torch

from ..config import Config
from ..console import pluralize, warn_once
from ..store.provenance import processor
from ..store.rundir import device_kind
from . import gpu

MAX_THREADS_PER_CORE = 4  # more only compete; a hundred thousand end Python by a signal

# Compute capabilities with fp64 at half the rate of fp32 (CUDA C++ Programming Guide, "Arithmetic
# Instructions"); other GPUs have 1/32 or 1/64 of it.
FULL_RATE_FP64 = ((8, 0), (9, 0), (10, 0))
CONTROL_GROUP = Path("/sys/fs/cgroup")  # of a container, as seen from inside


@dataclass(frozen=True)
class Resources:
    """How a run computes, with every `auto` decided from the config and the kind of hardware.

    device: "cpu" or "cuda:N". kind: "cpu" or "cuda". precision: "fp32", "bf16" or "fp64".
    """

    device: str
    precision: str
    threads: int
    compile: bool = False

    @property
    def kind(self) -> str:
        return device_kind(self.device)

    def __str__(self) -> str:
        """For the log, such as `NVIDIA H100, bf16, CUDA graphs` or `AMD EPYC, fp32, 1 thread`."""
        if self.kind == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}, CUDA graphs"
        return f"{processor()}, {self.precision}, {pluralize(self.threads, 'thread')}"


def check_machine(config: Config) -> None:
    """Raise ValueError if this machine lacks the GPU, precision, threads or compiler."""
    _check(config)
    if config.device == "auto" and (reason := gpu.why_unused()):
        warn_once(f"{reason}. device=cpu hides this message.")


def _check(config: Config) -> None:
    kind, _, index = config.device.partition(":")
    gpus = [] if kind == "cpu" else gpu.supported()
    if kind == "cuda" and not gpus:
        reason = f" ({why})" if (why := gpu.why_unused()) else ""
        raise ValueError(
            f"device={config.device} needs a GPU that PyTorch can use, and there is none{reason}; "
            "use device=cpu or device=auto"
        )
    if index and int(index) not in gpus:
        known = ", ".join(f"cuda:{number}" for number in gpus)
        raise ValueError(f"device={config.device} must be a GPU of this machine; use {known}")
    used = [int(index)] if index else gpus
    if config.precision == "bf16" and (old := [i for i in used if not _gpu_multiplies_bf16(i)]):
        name = torch.cuda.get_device_name(old[0])
        raise ValueError(
            "precision=bf16 on a GPU needs compute capability 8.0 or higher, and "
            f"{name} is older; use precision=fp32 or precision=auto"
        )
    limit = MAX_THREADS_PER_CORE * cpu_count()
    if config.threads != "auto" and int(config.threads) > limit:
        raise ValueError(
            f"threads={config.threads} must be at most {limit}, "
            f"{MAX_THREADS_PER_CORE} for each CPU core; use threads=auto or fewer"
        )
    compilers = os.environ.get("CXX", "g++"), "clang++"
    if config.compile == "true" and not gpus and not any(map(shutil.which, compilers)):
        raise ValueError(
            "compile=true needs a C++ compiler, g++ or clang++; install one, or use compile=false"
        )


def resolve(config: Config, job: int | None, cores: int = 1) -> Resources:
    """Decide every `auto`; ValueError as `check_machine`.

    job: number of a run in its sweep, to which GPUs are assigned round robin; None for a single
    run, which takes all CPU cores. cores: of each run of a sweep.
    """
    _check(config)
    device, precision, threads = config.device, config.precision, config.threads
    if device in ("auto", "cuda"):
        gpus = gpu.supported()
        device = f"cuda:{gpus[(job or 0) % len(gpus)]}" if gpus else "cpu"
    if precision == "auto":
        precision = "fp32"
        if config.exact and device != "cpu":
            if torch.cuda.get_device_capability(device) in FULL_RATE_FP64:
                precision = "fp64"
        elif config.model.bf16_on_cpu:
            able = _multiplies_bf16() if device == "cpu" else _gpu_multiplies_bf16(device)
            precision = "bf16" if able else "fp32"
    if threads == "auto":
        threads = str(cpu_count() if job is None else cores)
    compiled = config.compile == "true"  # auto: no gain was measured
    return Resources(device, precision, int(threads), compiled)


def _gpu_multiplies_bf16(device: int | str) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)  # older ones emulate it


@cache
def _multiplies_bf16() -> bool:
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def free_memory(device: str) -> int:
    """Return the bytes that a process can still take; the limit of a container counts too."""
    if device != "cpu":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # the limit may be missing, or "max"
        limit, used = ((CONTROL_GROUP / f"memory.{key}").read_text() for key in ("max", "current"))
        free = min(free, int(limit) - int(used))
    return free


def cpu_count() -> int:
    """Return the CPU cores that affinity, container quota and LOKY_MAX_CPU_COUNT leave."""
    return int(joblib.cpu_count())
