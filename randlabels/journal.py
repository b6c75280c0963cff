"""A run's folder and log, from the beginning to the outcome, for all ways to fit."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import ExitStack

import yaml
from filelock import Timeout

from .config import Config
from .console import counted, log, logging_to
from .experiment import Experiment
from .machine.resources import Resources, describe
from .store import metrics
from .store.metrics import Record
from .store.rundir import RunDir, write_atomic, write_json


def prefix(config: Config, several: bool) -> str:
    return f"{config.run_id} " if several else ""


def hold(run: RunDir, held: ExitStack, prefix: str) -> bool:
    """Make the run's folder and take its lock, unless another process has it."""
    run.check_links()
    run.path.mkdir(parents=True, exist_ok=True)
    try:
        held.enter_context(run.lock(timeout=1).acquire())
    except Timeout:
        with logging_to(prefix=prefix):
            log.warning("This run is being executed by %s.", run.holder())
        return False
    return True


def begin(experiment: Experiment, run: RunDir, resources: Resources) -> None:
    """Write what a run begins with."""
    run.remove_leftovers()
    run.error.unlink(missing_ok=True)
    tree = experiment.config.tree()
    write_atomic(run.config, yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False))
    write_json(run.environment, describe(resources, experiment.data_sha256))
    write_json(run.corruption, experiment.corruption)


def show(config: Config, record: Record) -> str:
    """Log an epoch as the original code does; the line."""
    line = metrics.console_line(record, noisy=config.corrupt > 0)
    log.info("%s", line)
    return line


def finish(
    config: Config,
    records: Sequence[Record],
    parameters: int,
    *,
    diverged_at: int | None = None,
    solution: dict[str, float] | None = None,
) -> str:
    """Write the last files, done.json after all others; the state that the run ends in."""
    run = config.run
    write_atomic(run.metrics, metrics.encode_all(records))
    outcome = "done" if diverged_at is None else "diverged"
    result = {
        "config_hash": config.hash,
        "state": outcome,
        "diverged_at": diverged_at,
        "epochs": len(records),
        "final": metrics.final(records),
        "best": metrics.best(records),
        "epochs_to_fit": metrics.epochs_to_fit(records, config.fit_threshold),
        "parameters": parameters,
        "seconds": sum(record["seconds"] or 0.0 for record in records),
    }
    write_json(run.done, result if solution is None else {**result, "solution": solution})
    if diverged_at is not None:
        log.warning("Diverged: a loss stopped being finite in epoch %d.", diverged_at)
    return outcome


def fail(runs: Sequence[RunDir], error: Exception) -> str:
    """Write what was raised to the log and to each run's error.json; raise it where the disk
    takes no more."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(runs[0].path)
    text = traceback.format_exc()
    exception = f"{type(error).__name__}: {error}".strip()
    log.error("%s", text)
    for run in runs:
        try:
            write_json(run.error, {"exception": exception, "traceback": text})
        except OSError:
            raise error from None
    return "failed"


def show_unforeseen(error: BaseException) -> None:
    """Print the traceback of what a run of a sweep raised before it had files, unless that is a
    refusal or the file system's; the launch itself ends with one sentence of it."""
    if not isinstance(error, ValueError | OSError | SystemExit):
        traceback.print_exception(error)


def tell(run: RunDir, prefix: str) -> None:
    """Print the result of a finished run in a line."""
    result = run.result() or {}
    final = result["final"]
    accuracies = ", ".join(
        f"{name} {final[key]:.2%}"
        for name, key in (("train acc", "train_acc"), ("test acc", "test_acc"))
        if final[key] is not None
    )
    with logging_to(prefix=prefix):
        log.info(
            "Already %s after %s: %s.",
            result["state"],
            counted(result["epochs"], "epoch"),
            accuracies or "no metrics",
        )
