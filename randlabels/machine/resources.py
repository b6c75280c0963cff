"""What a run was computed with: hardware, versions, code; and how `auto` was decided."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..store.rundir import device_kind

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "joblib", "pandas")


@dataclass(frozen=True)
class Resources:
    """How a run computes, with every `auto` decided from the config and the kind of hardware.

    device: "cpu" or "cuda:N". precision: "fp32", "bf16" or "fp64". threads: CPU threads.
    compile: training steps go through torch.compile.
    """

    device: str
    precision: str
    threads: int
    compile: bool = False

    @property
    def kind(self) -> str:
        """ "cpu" or "cuda"."""
        return device_kind(self.device)


def check_machine(config: Config) -> None:
    """ValueError if the config asks for a GPU, or for compiled steps, that cannot be had here."""
    kind, _, index = config.device.partition(":")
    gpus = torch.cuda.device_count() if kind != "cpu" and torch.cuda.is_available() else 0
    if kind == "cuda" and not gpus:
        raise ValueError(
            f"device={config.device} needs a GPU that PyTorch can use, and there is none; "
            "use device=cpu or device=auto"
        )
    if index and int(index) >= gpus:
        raise ValueError(f"device={config.device} does not exist; use cuda:0 to cuda:{gpus - 1}")
    compilers = os.environ.get("CXX", "g++"), "clang++"
    if config.compile == "true" and not gpus and not any(map(shutil.which, compilers)):
        raise ValueError(
            "compile=true needs a C++ compiler, and neither g++ nor clang++ is there; install one, "
            "or use compile=false"
        )


def resolve(config: Config, job: int | None, cores: int = 1) -> Resources:
    """Decide every `auto`.

    `job` is the number of a run in its sweep, None for a single run. GPUs are dealt out to
    the jobs round robin. A single run takes all CPU cores, each run of a sweep `cores`.
    """
    check_machine(config)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{(job or 0) % torch.cuda.device_count()}"
    precision = config.precision
    if precision == "auto":
        precision = _precision(config, device_kind(device))
    if config.threads != "auto":
        threads = int(config.threads)
    else:
        threads = len(cpu_cores()) if job is None else cores
    compiled = config.compile == "true"  # auto: no gain was measured (docs/speed.md)
    return Resources(device, precision, threads, compiled)


def _precision(config: Config, kind: str) -> str:
    """What `auto` means for this model on this kind of hardware."""
    if config.exact:
        return "fp32" if kind == "cpu" else "fp64"
    if kind != "cpu" or not getattr(config.model, "bf16_on_cpu", False):
        return "fp32"
    return "bf16" if _multiplies_bf16() else "fp32"


@cache
def _multiplies_bf16() -> bool:
    """The processor has AMX or AVX512-BF16."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def stream(device: str) -> AbstractContextManager[object]:
    """What one run does on a GPU, apart from the runs beside it: a stream of its own."""
    if device == "cpu":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))


def free_memory(device: str) -> int:
    """Bytes that a process can still take on the device: of a GPU, or of the machine within the
    limit of this process's control group."""
    if device != "cpu":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = [int(fields["MemAvailable"].split()[0]) * 1024]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, KeyError, ValueError):
        pass
    return min(free)


def cpu_cores() -> list[int]:
    """Numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def describe(resources: Resources, data_sha256: str) -> dict[str, Any]:
    """The content of environment.json."""
    on_gpu = resources.kind == "cuda"
    return {
        **asdict(resources),
        "device_name": torch.cuda.get_device_name(resources.device) if on_gpu else _processor(),
        "git": _git(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda if on_gpu else None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "argv": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "data_sha256": data_sha256,
    }


@cache  # of a process; the code that it runs is what it had imported
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


@cache
def _git() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that this file is tracked in; None outside of one."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--", ".")),  # new files of code too
        }
    except (OSError, subprocess.SubprocessError):
        return None
