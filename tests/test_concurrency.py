"""Several runs at a time in one worker of `packed`, each in a thread: the same numbers and logs."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock

import pytest
import torch

from randlabels import execute, sharing
from randlabels.config import Config, parse
from randlabels.launchers import packed
from randlabels.launchers.packed import PackedLauncher
from randlabels.store import metrics

from .conftest import numbers
from .crowd import Crowd


def test_runs_of_one_process_at_a_time_have_the_numbers_and_logs_that_they_have_alone(
    tmp_path: Path,
) -> None:
    """A WRN, in bf16 where the processor has it, and MLPs on other data sets."""

    def runs(out: str) -> list[Config]:
        common = {"epochs": 4, "threads": "1", "out": str(tmp_path / out)}
        digits = {"name": "digits", "train_size": 64}
        wrn = parse({**common, "dataset": digits, "model": {"name": "wrn", "depth": 10}})
        mlp = {**common, "model": {"name": "mlp", "hidden": [8]}, "epochs": 30}
        sizes = [None, 100, 200]
        return [wrn, *(parse({**mlp, "dataset": {**digits, "holdout": size}}) for size in sizes)]

    together, alone = runs("together"), runs("alone")
    assert PackedLauncher(workers=1, concurrency=4).execute(together) == {}
    assert PackedLauncher(workers=1, concurrency=1).execute(alone) == {}
    for config, other in zip(together, alone, strict=True):
        assert config.run.state() == "done"
        assert numbers(config.run.path) == numbers(other.run.path)
        assert config.run.log.read_text() == other.run.log.read_text()
    began = max(config.run.config.stat().st_mtime for config in together)
    assert began < min(config.run.done.stat().st_mtime for config in together)


def test_threads_assemble_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = Lock()

    def assemble(config: Config) -> None:
        free = inside.acquire(blocking=False)
        time.sleep(0.05)
        inside.release()
        raise ValueError("one at a time" if free else "two at a time")

    monkeypatch.setattr(execute, "assemble", assemble)
    configs = [parse({"seed": seed, "out": str(tmp_path)}) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for run in [threads.submit(execute.execute, config, job=0) for config in configs]:
            with pytest.raises(ValueError, match="one at a time"):
                run.result()


def test_runs_that_want_other_cpu_threads_wait() -> None:
    """torch has one number of threads for the whole process, which sums depend on."""
    before, seen = torch.get_num_threads(), []

    def run(number: int) -> None:
        with sharing.cpu_threads(number):
            time.sleep(0.05)
            seen.append((number, torch.get_num_threads()))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, (1, 2, 1, 3)))
    torch.set_num_threads(before)
    assert sorted(seen) == [(1, 1), (1, 1), (2, 2), (3, 3)]


def test_runs_that_want_as_many_cpu_threads_go_on_together() -> None:
    """... in threads that have computed before, with another number."""
    before, together = torch.get_num_threads(), Barrier(2, timeout=10)

    def compute(_: int) -> None:
        torch.ones(10**6).sum()  # in parallel, which a thread is made ready for once
        together.wait()

    def run(_: int) -> int:
        with sharing.cpu_threads(before + 1):
            together.wait()
            return torch.get_num_threads()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(compute, range(2)))
        assert list(threads.map(run, range(2))) == [before + 1] * 2
    torch.set_num_threads(before)


def crowd(tmp_path: Path, event: str, seed: int) -> Config:
    """A run of a process that does not bear two of its kind; see there."""
    dataset = {"name": "digits", "train_size": 64}
    tree = {"dataset": dataset, "seed": seed, "epochs": 5, "checkpoint_every": 0}
    return dataclasses.replace(parse({**tree, "out": str(tmp_path)}), model=Crowd(event))


def test_run_without_memory_beside_others_goes_on_when_there_are_fewer(tmp_path: Path) -> None:
    """None of three fits beside another, and what one took is free when it is put off."""
    configs = [crowd(tmp_path, "memory", seed) for seed in range(3)]
    assert PackedLauncher(workers=1, concurrency=4).execute(configs) == {}
    logs = [config.run.log.read_text() for config in configs]
    assert [config.run.state() for config in configs] == ["done"] * 3
    assert not any(config.run.error.exists() for config in configs)
    put_off = [log for log in logs if "Out of memory beside other runs" in log]
    assert put_off and any("Resuming after epoch" in log for log in put_off)
    for config in configs:
        assert [record["epoch"] for record in metrics.read(config.run.metrics)[0]] == [*range(5)]


def test_run_without_memory_when_alone_has_failed(tmp_path: Path) -> None:
    config = crowd(tmp_path, "never", 0)
    assert PackedLauncher(workers=1, concurrency=4).execute([config]) == {}
    assert config.run.state() == "failed"
    assert "OutOfMemoryError: too many networks" in config.run.error.read_text()


def test_killed_worker_loses_the_runs_that_it_was_at(tmp_path: Path) -> None:
    configs = [crowd(tmp_path, "kill", seed) for seed in range(2)]
    small = {"name": "digits", "train_size": 64}
    good = parse({"dataset": small, "model": {"name": "mlp"}, "epochs": 1, "out": str(tmp_path)})
    errors = PackedLauncher(workers=1, concurrency=2).execute([*configs, good])
    died = "its worker died (killed by SIGKILL)"
    assert errors == {config.run.path: died for config in configs}
    assert good.run.state() == "done"


def test_worker_has_half_as_many_runs_after_one_was_put_off() -> None:
    runs = {Path(str(seed)): parse({"seed": seed}) for seed in range(4)}
    busy = packed.Worker(process=None, line=None, concurrency=4, runs=runs)  # type: ignore[arg-type]
    for number, left in [(2, 3), (1, 2), (1, 1)]:
        busy.halve()
        busy.runs.popitem()
        assert (busy.concurrency, len(busy.runs)) == (number, left)
