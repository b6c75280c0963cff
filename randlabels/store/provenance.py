"""Hardware, versions and code with which a run was computed."""

import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "joblib", "pandas")


def describe(resources: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the content of environment.json, with the fields of `Resources` and `more` keys."""
    device = resources["device"]
    return {
        **resources,
        "device_name": processor() if device == "cpu" else torch.cuda.get_device_name(device),
        **({} if device == "cpu" else _gpu(device)),
        "git": _git(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "argv": [*map(os.path.basename, sys.argv[:1]), *sys.argv[1:]],  # a folder may name a person
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }


def _gpu(device: str) -> dict[str, Any]:
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": _find(r"(\d+\.\d+(?:\.\d+)?)", "/proc/driver/nvidia/version"),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "tf32": torch.backends.cudnn.allow_tf32,
    }


@cache
def processor() -> str:
    """Return the processor's name, such as `AMD EPYC 9B14`."""
    name = _find(r"^model name\s*:(.*)", "/proc/cpuinfo")
    return name or platform.processor() or platform.machine()


def _find(pattern: str, file: str) -> str | None:
    """Return the first group of `pattern` in a file; None if either is missing."""
    found = re.search(pattern, Path(file).read_text() if Path(file).exists() else "", re.M)
    return found[1].strip() if found else None


@cache
def _git() -> dict[str, Any] | None:
    """Return commit and dirty flag of the package's checkout; None outside of one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent.parent), *arguments]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return shown.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(Path(__file__)))
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--", ".")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
