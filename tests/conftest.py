"""Shared fixtures: the command line in this process, real data, a run folder's bytes."""

from __future__ import annotations

import json
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from joblib.externals.loky import reusable_executor

from randlabels import experiment, fit, run
from randlabels.machine.resources import Resources
from randlabels.store import checkpoint, metrics
from randlabels.store.rundir import RunDir

from .own import forgotten_parts, write  # noqa: F401  # fixtures, which pytest finds here
from .stand_ins import (  # noqa: F401
    clock,
    coloured,
    control_group,
    install_gpus,
    limit_memory,
    measure_also,
    one_second_epochs,
    set_bf16,
    set_cores,
    set_programs,
    two_gpus,
    use_data,
)
from .synthetic import CURVES, write_run

TINY = ["dataset=digits", "model=mlp", "model.hidden=[8]", "dataset.train_size=64", "epochs=2"]
"""A run that takes some milliseconds."""

BASIC = "hydra/launcher=basic"
"""In this process, so that a test can patch code; the default launcher is tested separately."""

CPU = Resources(device="cpu", precision="fp32", threads=1)


@pytest.fixture(autouse=True)
def fresh_hydra() -> None:
    """Reset Hydra before each test: it is initialised once per process."""
    GlobalHydra.instance().clear()


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


CallMain = Callable[..., None]


@pytest.fixture
def call_main(monkeypatch: pytest.MonkeyPatch) -> CallMain:
    """Return a function that calls the `main` of a command with these arguments."""

    def call(main: Callable[[], None], *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["randlabels", *arguments])
        GlobalHydra.instance().clear()
        main()

    return call


@pytest.fixture
def cli(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    call_main: CallMain,
) -> Cli:
    """Return a call of `python -m randlabels.run` in an empty folder, without a new process."""
    threads = torch.get_num_threads()

    def call(*arguments: str) -> Outcome:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        experiment._loaded.clear()  # a new process would have loaded no data
        capfd.readouterr()
        code: object = 0
        try:
            call_main(run.main, *arguments)
        except SystemExit as end:
            code = end.code
        finally:
            torch.set_num_threads(threads)
            if workers := reusable_executor._executor:  # they stay in the folder of this test
                workers.shutdown(wait=True)
            forkserver._forkserver._stop()  # type: ignore[attr-defined]  # as does the launcher `packed`
        out, err = capfd.readouterr()
        if isinstance(code, str):  # as the interpreter does at exit
            code, err = 1, err + code + "\n"
        return Outcome(int(str(code or 0)), out, err)

    return call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test, an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Four finished runs: two corruption levels, two seeds."""
    for (corrupt, seed), curve in CURVES.items():
        write_run(tmp_path, curve, corrupt=corrupt, seed=seed)
    return tmp_path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real CIFAR-10 and MNIST; skip the test without one."""
    root = Path(os.environ.get("RANDLABELS_DATA", "data"))
    if not (root / "cifar-10-batches-py").is_dir() or not (root / "MNIST").is_dir():
        pytest.skip("real CIFAR-10 and MNIST not found: set RANDLABELS_DATA to their folder")
    return root


class Left(Exception):
    """Raised by the `pause` of a fit, to leave it there."""


def leave_after(points: int) -> Callable[[], None]:
    """Return a `pause` that leaves a fit at its safe point number `points` (1-based)."""
    passed = iter(range(points - 1))

    def pause() -> None:
        if next(passed, None) is None:
            raise Left

    return pause


def left_at(
    stops: Iterable[int], build: Callable[[], experiment.Experiment], file: Path
) -> tuple[fit.State, set[tuple[int, int]]]:
    """Return the end of a fit that was stopped and resumed, and the (epoch, step) of each stop.

    stops: safe points at which the fit is left, each counted from the last resume.
    file: the checkpoint through which it resumes.
    """
    places = set()
    for stop in stops:
        built = build()
        state = fit.start(built, CPU)
        if saved := checkpoint.load(file, "x"):
            state.restore(saved)
        try:
            list(fit.sgd(built, state, CPU, pause=leave_after(stop)))
            break
        except Left:
            places.add((state.epoch, state.step))
            checkpoint.save(file, {"config_hash": "x", **state.to_dict()})
    return state, places


class Hostile:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def wait_until(condition: Callable[[], object], seconds: float = 90) -> None:
    """Wait until `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def started(
    folder: Path,
    *arguments: str,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.STDOUT,
) -> Iterator[subprocess.Popen]:
    """Start a command in a new process group, which is killed at the end."""
    shell = ["env", "--default-signal=INT"]  # tests in the background would ignore SIGINT
    with subprocess.Popen(
        [*shell, sys.executable, "-m", "randlabels.run", *arguments],
        cwd=folder,
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def run_with_closed_pipe(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose output pipe is closed, as after `| head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", module, *arguments]
    try:
        return subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)


@contextmanager
def locked_elsewhere(run: RunDir) -> Iterator[None]:
    """Hold the run's lock in another process, which is killed at the end."""
    code = "import time; from pathlib import Path; from randlabels.store.rundir import RunDir\n"
    code += f"with RunDir(Path({str(run.path)!r})).lock(): print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"\n"
        yield
        holder.kill()


def only_run(root: Path) -> Path:
    """Return the only run folder under `root`."""
    (config,) = root.glob("runs/*/*/config.yaml")
    return config.parent


def untimed_lines(folder: Path) -> list[str]:
    """Return the lines of metrics.jsonl without their timings."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.dumps(record) for record in untimed(map(json.loads, lines))]


def untimed(records: Iterable[metrics.Record], *without: str) -> list[metrics.Record]:
    """Return records without their timings, and without the keys in `without`."""
    left_out = ("seconds", "images_per_second", *without)
    return [{k: v for k, v in record.items() if k not in left_out} for record in records]


def final_state(run: RunDir) -> list[bytes]:
    """Return weights, buffers and momentum of the last checkpoint of a finished run."""
    saved = checkpoint.load(run.checkpoint, json.loads(run.done.read_text())["config_hash"])
    assert saved is not None
    moments = [m["momentum_buffer"] for m in saved["optimizer"]["state"].values()]
    return [tensor.numpy().tobytes() for tensor in [*saved["model"].values(), *moments]]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make a small matrix have many panels and tiles; one thread suffices for so little work."""
    from randlabels.kernels import cholesky, system

    monkeypatch.setattr(system, "ROWS_AT_ONCE", 64)
    monkeypatch.setattr(cholesky, "BLOCK_ROWS", 32)
    monkeypatch.setattr(cholesky, "HEAD_COLUMNS", 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
