"""Fixtures that stand in for hardware, time, data and measurements; conftest.py hands them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch

from randlabels import experiment, fit
from randlabels.console import warn_once
from randlabels.dataset import Data, Split
from randlabels.launchers import launch
from randlabels.machine import resources

# Hardware

InstallGpus = Callable[..., None]


@pytest.fixture
def install_gpus(monkeypatch: pytest.MonkeyPatch) -> InstallGpus:
    """Pretend that GPUs of these compute capabilities are here, with such a build of torch."""

    def install(*capabilities: tuple[int, int], built: str = "sm_80 sm_90") -> None:
        def capability(device: int | str) -> tuple[int, int]:
            return capabilities[int(str(device).rpartition(":")[2])]

        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Stand-in")
        monkeypatch.setattr(torch.cuda, "get_arch_list", built.split)
        warn_once.cache_clear()

    return install


@pytest.fixture
def two_gpus(install_gpus: InstallGpus) -> None:
    """Pretend that two GPUs of compute capability 9.0 are here."""
    install_gpus((9, 0), (9, 0))


@pytest.fixture
def set_bf16(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Return a function that makes the CPU one that multiplies bf16, or one that does not."""
    return lambda able: monkeypatch.setattr(resources, "_multiplies_bf16", lambda: able)


@pytest.fixture
def set_cores(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that sets the number of CPU cores, as joblib counts them."""
    return lambda cores: monkeypatch.setattr(joblib, "cpu_count", lambda: cores)


@pytest.fixture
def control_group(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return an empty folder in which the limits of a container are looked for."""
    folder = tmp_path_factory.mktemp("control_group")
    monkeypatch.setattr(resources, "CONTROL_GROUP", folder)
    return folder


@pytest.fixture
def limit_memory(control_group: Path) -> Callable[[int], None]:
    """Return a function that sets how many bytes of memory a container leaves."""

    def limit(free: int) -> None:
        (control_group / "memory.max").write_text(f"{free}\n")
        (control_group / "memory.current").write_text("0\n")

    return limit


@pytest.fixture
def set_programs(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Return a function that leaves only programs of these names on the PATH."""
    monkeypatch.delenv("CXX", raising=False)

    def install(*names: str) -> None:
        folder = tmp_path_factory.mktemp("bin")
        for name in names:
            (folder / name).touch(mode=0o755)
        monkeypatch.setenv("PATH", str(folder))

    return install


# Time


class Clock:
    """Time that passes only while something sleeps, or when a test sets it.

    now: seconds. shortest: a sleep takes at least so long. after_sleep: called after each sleep.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.shortest = 0.0
        self.after_sleep: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, self.shortest)
        self.after_sleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace `time.sleep` and `time.monotonic` by those of a `Clock`."""
    made = Clock()
    monkeypatch.setattr("time.sleep", made.sleep)
    monkeypatch.setattr("time.monotonic", lambda: made.now)
    return made


@pytest.fixture
def one_second_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a plan measure one second for each epoch, without training."""
    monkeypatch.setattr(launch, "measure_epoch", lambda config, job: 1.0)


# Data and measurements


@pytest.fixture
def use_data(monkeypatch: pytest.MonkeyPatch) -> Callable[[Data], None]:
    """Return a function after which an experiment gets these data for every data set."""
    return lambda data: monkeypatch.setattr(experiment, "load", lambda dataset: data)


@pytest.fixture
def coloured(use_data: Callable[[Data], None]) -> Data:
    """Replace CIFAR-10 by random images of its shape: 40 to train and 40 to test on."""
    draws = (np.random.RandomState(seed).randint(0, 256, (40, 3, 32, 32)) for seed in (0, 1))
    images = (torch.tensor(pixels, dtype=torch.uint8) for pixels in draws)
    data = Data(*(Split(pixels, torch.arange(40) % 10) for pixels in images), classes=10)
    use_data(data)
    return data


@pytest.fixture
def measure_also(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., dict]], None]:
    """Return a function that adds metrics to those of an epoch, or replaces some.

    They are the result of `added(measured, *arguments)`, with the arguments of `fit.measure`.
    """

    def add(added: Callable[..., dict[str, Any]]) -> None:
        measure = fit.measure

        def measure_and_add(*arguments: Any) -> Any:
            measured = measure(*arguments)
            return measured | added(measured, *arguments)

        monkeypatch.setattr(fit, "measure", measure_and_add)

    return add
