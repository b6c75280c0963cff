"""Configs, and run folders made by hand, whose means are known; helpers to collect them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from analysis import collect
from randlabels.cli import compose
from randlabels.config import Config, parse
from randlabels.store import metrics, rundir
from randlabels.store.rundir import RunDir

CURVES = {
    # (corrupt, seed): train accuracy by epoch
    (0.0, 0): [0.5, 1.0, 1.0],
    (0.0, 1): [1.0, 1.0, 1.0],
    (1.0, 0): [0.1, 0.5, 1.0],
    (1.0, 1): [0.3, 0.7, 0.9],  # never fits
}

OTHER_METRICS = 0.25
"""The value of every metric that a test does not set."""


@cache
def composed(*overrides: str) -> Config:
    """Return the config of a command line; do not change it, since all tests share it."""
    return compose(overrides)


def record(epoch: int, train_acc: float, test_acc: float) -> dict[str, Any]:
    """Return a record with `OTHER_METRICS` for all other metrics."""
    values = dict.fromkeys(metrics.KEYS, OTHER_METRICS)
    values |= {"epoch": epoch, "lr": 0.1, "train_acc": train_acc, "test_acc": test_acc}
    return values | {"train_acc_corrupted": None}


def write_run(root: Path, curve: list[float], state: str = "done", **keys: Any) -> RunDir:
    """Write a run folder as a run does; test accuracy is 0.9 - 0.8·corrupt + 0.01·seed."""
    model = keys.pop("model", {"name": "mlp"})
    config = parse({"dataset": {"name": "digits"}, "model": model, "epochs": len(curve), **keys})
    run = RunDir(root / config.run_id)
    run.path.mkdir(parents=True)
    run.config.write_text(yaml.safe_dump(config.tree()))
    test_acc = 0.9 - 0.8 * config.corrupt + 0.01 * config.seed
    records = [record(epoch, acc, test_acc) for epoch, acc in enumerate(curve)]
    run.metrics.write_text("".join(metrics.encode(r) + "\n" for r in records))
    if state in rundir.FINISHED:
        last = metrics.final(records)
        result = {"config_hash": config.hash, "state": state, "parameters": 592, "seconds": 1.0}
        result["epochs"] = len(records)
        result |= {"final": last, "best": metrics.best(records)}
        rundir.write_json(run.done, result)
    elif state == "failed":
        rundir.write_json(run.error, {"exception": "OSError: no", "traceback": ""})
    used = {"device": "cpu", "device_name": "A", "precision": "fp32", "threads": 1}
    used |= {"versions": {"torch": "2.15.0"}}
    rundir.write_json(run.environment, {**used, "git": {"commit": "a" * 40, "dirty": False}})
    return run


def write_seeds(root: Path, seeds: range) -> None:
    """Write runs of these seeds, which differ in the accuracy of the first epoch."""
    for seed in seeds:
        write_run(root, [seed / 400, 0.5, 1.0], seed=seed)


def table(root: Path, name: str, fit_threshold: float | None = None) -> pd.DataFrame:
    """Return a table of the runs under `root` as collect builds it, or epochs.csv."""
    _, tables = collect.collect(root, None, fit_threshold)
    return pd.read_csv(root / "summary" / "epochs.csv") if name == "epochs" else tables[name]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of all files under a folder by name."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@contextmanager
def shuffled_folders() -> Iterator[None]:
    """Let `os.walk` go through the entries of each folder in another order."""
    walk = os.walk

    def shuffled(*arguments: Any, **keys: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for path, folders, files in walk(*arguments, **keys):
            random.Random(1).shuffle(folders)
            random.Random(2).shuffle(files)
            yield path, folders, files

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.walk", shuffled)
        yield
