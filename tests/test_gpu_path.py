"""GPU code on machines without a GPU: stand-ins for streams, devices and tensors."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from randlabels.config import parse
from randlabels.execute import _fail
from randlabels.machine import gpu
from randlabels.machine.gpu import (
    DEVICE_LOST_EXIT_CODE,
    MAX_QUEUED_STEPS,
    Pace,
    Step,
    graphs,
)
from randlabels.machine.resources import check_machine, resolve

from .conftest import TINY
from .stand_ins import InstallGpus

ROOT = Path(__file__).parent.parent


class StandIn:
    """Streams and graphs that only note where they are used, under torch's real `cuda.graph`."""

    def __init__(self) -> None:
        self.current = self.Stream(0)
        self.captures: list[StandIn.Stream] = []
        self.fails = False

    class Stream:
        def __init__(self, device: object) -> None:
            self.device = torch.device(device if isinstance(device, str) else f"cuda:{device}")

    def use(self, stream: Stream) -> object:
        """`torch.cuda.stream`: a context in which it is the current one."""
        standin = self

        class Context:
            def __enter__(self) -> None:
                self.earlier, standin.current = standin.current, stream

            def __exit__(self, *error: object) -> None:
                standin.current = self.earlier

        return Context()

    def graph(self) -> object:
        """`torch.cuda.CUDAGraph()`."""
        standin = self

        class Graph:
            def capture_begin(self, *arguments: object, **options: object) -> None:
                assert options["capture_error_mode"] == "thread_local"
                standin.captures.append(standin.current)

            def capture_end(self) -> None:
                if standin.fails:
                    raise RuntimeError("operation failed due to a previous error during capture")

            def replay(self) -> None:
                pass

        return Graph()


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    made = StandIn()
    monkeypatch.setattr(torch.cuda, "Stream", StandIn.Stream)
    monkeypatch.setattr(torch.cuda, "stream", made.use)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *device: made.current)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", made.graph)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    annotations = "torch.cuda._graph_annotations.maybe_stamp_capture_root"
    monkeypatch.setattr(annotations, lambda stream: None, raising=False)
    gpu._stream.cache_clear()
    yield made
    gpu._stream.cache_clear()


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.zeros(1, requires_grad=True)])


def test_each_capture_is_on_the_stream_and_device_of_its_run(standin: StandIn) -> None:
    """Two runs of one process, to which different GPUs were dealt out."""
    streams = []
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        with gpu.stream(device):
            graphs("cuda", optimizer(), [])(lambda: None)
            streams.append(standin.current)
    assert standin.captures == streams
    assert [str(stream.device) for stream in streams] == ["cuda:0", "cuda:1", "cuda:0"]
    assert streams[0] is streams[2], "one stream for all runs of a process on a device"


def test_failed_capture_leaves_the_stream_and_the_optimizer_as_they_were(standin: StandIn) -> None:
    adam = optimizer()
    standin.fails = True
    with gpu.stream("cuda:1"):
        before = standin.current
        step = Step(lambda batch: None, 1, graphs("cuda", adam, []))
        for _ in range(5):
            step(torch.tensor([0]))
        assert standin.current is before and len(standin.captures) == 1
    assert step.captured is False and not adam.param_groups[0]["capturable"]


def test_at_most_a_few_steps_are_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    queued: list[int] = []
    steps, most = itertools.count(), 0

    class Event:
        number: int | None = None

        def record(self) -> None:
            nonlocal most
            self.number = next(steps)
            queued.append(self.number)
            most = max(most, len(queued))

        def synchronize(self) -> None:
            if self.number is not None:
                assert queued.pop(0) == self.number, "the oldest step is waited for"

    monkeypatch.setattr(torch.cuda, "Event", Event)
    pace = Pace("cuda:0")
    for _ in range(50):
        pace()
    assert most == MAX_QUEUED_STEPS


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_kind_of_out_of_memory_is_named_with_its_remedy(
    error: Exception, tmp_path: Path
) -> None:
    config = parse({"dataset": {"name": "digits"}, "out": str(tmp_path)})
    config.run.path.mkdir(parents=True)
    _fail([config.run], error)
    written = json.loads(config.run.error.read_text())["exception"]
    assert "the GPU is out of memory; use fewer hydra.launcher.workers" in written


DYING = f"""
import sys, torch
from contextlib import nullcontext
from randlabels import execute, fit, run
from randlabels.machine import gpu
from randlabels.machine.resources import Resources

def fail(*arguments):
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

execute.resolve = lambda *arguments: Resources("cuda:0", "fp32", 1)
gpu.stream = lambda device: nullcontext()
execute._begin = fit.start = torch.cuda.synchronize = fail
sys.argv = ["randlabels", "-m", "hydra/launcher=basic", "seed=0,1", *{TINY!r}]
run.main()
"""


def test_process_whose_gpu_is_lost_writes_the_error_and_ends_before_its_next_run(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{DYING}"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == DEVICE_LOST_EXIT_CODE, ended.stderr
    (error,) = tmp_path.glob("runs/*/*/error.json")
    assert "illegal memory access" in json.loads(error.read_text())["exception"]
    assert "cuda:0 cannot be used by this process any more" in ended.stderr
    assert len(list(tmp_path.glob("runs/default/mlp*"))) == 1, "the second run was not started"


@pytest.mark.parametrize(
    ("capability", "network", "solved"),
    [
        ((7, 5), "fp32", "fp32"),
        ((8, 0), "bf16", "fp64"),
        ((8, 6), "bf16", "fp32"),
        ((9, 0), "bf16", "fp64"),
        ((10, 0), "bf16", "fp64"),
        ((12, 0), "bf16", "fp32"),
    ],
)
def test_auto_precision_is_what_the_gpu_is_fast_at(
    capability: tuple[int, int], network: str, solved: str, install_gpus: InstallGpus
) -> None:
    install_gpus(capability, built="compute_75")
    found = [resolve(parse({"model": {"name": name}}), 0) for name in ("wrn", "lenet", "kernel")]
    assert [each.device for each in found] == ["cuda:0"] * 3
    assert [each.precision for each in found] == [network, "fp32", solved]


def test_bf16_on_a_gpu_without_it_is_refused(install_gpus: InstallGpus) -> None:
    install_gpus((7, 5), (9, 0), built="sm_75 sm_90")
    with pytest.raises(ValueError, match="precision=bf16 on a GPU needs .* 8.0 .*; use precision="):
        check_machine(parse({"precision": "bf16"}))
    check_machine(parse({"precision": "bf16", "device": "cuda:1"}))


def test_gpu_without_code_in_this_build_is_refused_or_left_unused_with_a_warning(
    install_gpus: InstallGpus, capsys: pytest.CaptureFixture
) -> None:
    install_gpus((7, 0))
    with pytest.raises(ValueError, match="device=cuda needs a GPU .*7.0.*; use device=cpu"):
        check_machine(parse({"device": "cuda"}))
    for _ in range(2):
        check_machine(parse({}))
    assert capsys.readouterr().out.count("has compute capability 7.0 and PyTorch") == 1
    assert resolve(parse({}), 0).device == "cpu"


def test_gpus_are_dealt_out_round_robin(install_gpus: InstallGpus) -> None:
    install_gpus((9, 0), (9, 0), (9, 0))
    devices = [resolve(parse({}), job).device for job in range(5)]
    assert devices == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]
    assert resolve(parse({"device": "cuda:2"}), 0).device == "cuda:2"
    with pytest.raises(ValueError, match="device=cuda:3 must .*; use cuda:0, cuda:1, cuda:2"):
        resolve(parse({"device": "cuda:3"}), 0)


def test_runs_get_the_gpus_that_this_build_supports(install_gpus: InstallGpus) -> None:
    install_gpus((7, 0), (8, 9), (9, 0))
    assert [resolve(parse({}), job).device for job in range(3)] == ["cuda:1", "cuda:2", "cuda:1"]
    with pytest.raises(ValueError, match="device=cuda:0 must be .*; use cuda:1, cuda:2"):
        check_machine(parse({"device": "cuda:0"}))


@pytest.mark.parametrize(("hidden", "lines"), [(None, 1), ("", 0), ("-1", 0)])
def test_driver_without_a_usable_gpu_is_said_once_unless_hidden_on_purpose(
    hidden: str | None,
    lines: int,
    install_gpus: InstallGpus,
    set_programs: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    install_gpus()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    set_programs("nvidia-smi")
    for device in ("cpu", "auto", "auto"):
        check_machine(parse({"device": device}))
    assert capsys.readouterr().out.count("finds no GPU that it can use") == lines


def test_fp32_is_ieee_and_kernels_are_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        gpu.set_arithmetic()
        assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (False, True, False)
        assert not torch.backends.cuda.matmul.allow_tf32
