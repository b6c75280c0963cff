"""One run, from its config to a finished folder."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from filelock import Timeout
from omegaconf import OmegaConf

from . import checkpoint, environment, fit, metrics
from .config import Config
from .console import log, logging_to, progress_bar
from .environment import Resources
from .experiment import Experiment, assemble
from .rundir import FINISHED, RunDir, write_atomic, write_json


def execute(config: Config, job: int | None = None) -> str:
    """Bring one run to its end, or find that it is there already; its state afterwards.

    `job` is the run's number in a sweep, None for a single run. What goes wrong in the fit is
    written to error.json, so that the other runs of a sweep go on. The state is "running" where
    another process is at it.

    Raises:
        ValueError: the run is refused; its folder was not made.
    """
    run = config.run
    prefix = "" if job is None else f"{config.run_id} "
    if run.state() not in FINISHED:
        experiment = assemble(config)
        resources = environment.resolve(config, job)
        run.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = run.lock(timeout=1).acquire()
        except Timeout:
            with logging_to(None, prefix):
                log.warning("This run is being executed by %s.", run.holder())
            return "running"
        bar = job is None and sys.stderr.isatty()
        with lock, logging_to(run.log, prefix, quiet=bar):
            if run.result() is None:  # nobody else finished it in the meantime
                return _guarded(experiment, run, resources, bar=bar)
    with logging_to(None, prefix):
        log.info("%s", _summary(run.result() or {}))
    return run.state()


def _guarded(experiment: Experiment, run: RunDir, resources: Resources, *, bar: bool) -> str:
    """Fit; what is raised ends in error.json and the log."""
    try:
        return _fit(experiment, run, resources, bar=bar)
    except Exception as error:
        text = traceback.format_exc()
        exception = f"{type(error).__name__}: {error}".strip()
        write_json(run.error, {"exception": exception, "traceback": text})
        log.error("%s", text)
        return "failed"


def _summary(result: dict[str, Any]) -> str:
    """The result of a finished run in a line."""
    final = result["final"]
    accuracies = ", ".join(
        f"{name} {final[key]:.2%}"
        for name, key in (("train acc", "train_acc"), ("test acc", "test_acc"))
        if final[key] is not None
    )
    return (
        f"Already {result['state']} after {result['epochs']} epochs: {accuracies or 'no metrics'}."
    )


def _fit(experiment: Experiment, run: RunDir, resources: Resources, *, bar: bool) -> str:
    """Fit and record; the state that the run ends in."""
    config = experiment.config
    saved = _saved(run, config)
    if saved:  # a run keeps the resources that it began with
        resources = _kept(saved, resources, run)
    torch.set_num_threads(resources.threads)
    run.error.unlink(missing_ok=True)
    write_atomic(run.config, OmegaConf.to_yaml(OmegaConf.create(config.tree())))
    write_json(run.environment, environment.describe(resources, experiment.data_sha256))
    write_json(run.corruption, experiment.corruption)

    state = fit.start(experiment, resources)
    if saved:
        state.restore(saved)
        log.warning("Resuming after epoch %d.", state.epoch - 1)
    parameters = sum(p.numel() for p in state.model.parameters())
    log.info("Number of parameters: %d", parameters)
    write_atomic(run.metrics, "".join(metrics.encode(r) + "\n" for r in state.records))

    def commit() -> None:
        kept = {"threads": resources.threads, "precision": resources.precision}
        identity = {"config_hash": config.hash, "device": resources.kind, **kept}
        checkpoint.save(run.checkpoint, {**identity, **state.to_dict()})

    steps = -(-len(experiment.train.labels) // config.batch_size)
    committed = perf_counter()
    with (
        open(run.metrics, "a", encoding="utf-8") as file,
        progress_bar(steps * config.epochs, steps * state.epoch, shown=bar) as (tick, caption),
    ):
        for record in fit.sgd(experiment, state, resources, tick):
            if perf_counter() - committed >= config.checkpoint_every:
                commit()
                committed = perf_counter()
            file.write(metrics.encode(record) + "\n")
            file.flush()
            line = metrics.console_line(record, noisy=config.corrupt > 0)
            log.info("%s", line)
            caption(line.partition(", L-tr")[0])
    return _finish(experiment, run, state, parameters, commit)


def _finish(
    experiment: Experiment,
    run: RunDir,
    state: fit.State,
    parameters: int,
    commit: Callable[[], None],
) -> str:
    """Write the last files, done.json after all others."""
    config, records = experiment.config, state.records
    if state.diverged_at is None:
        commit()
    write_atomic(run.metrics, "".join(metrics.encode(r) + "\n" for r in records))
    outcome = "done" if state.diverged_at is None else "diverged"
    write_json(
        run.done,
        {
            "config_hash": config.hash,
            "state": outcome,
            "diverged_at": state.diverged_at,
            "epochs": len(records),
            "final": metrics.final(records),
            "best": metrics.best(records),
            "epochs_to_fit": metrics.epochs_to_fit(records, config.fit_threshold),
            "parameters": parameters,
            "seconds": sum(record["seconds"] or 0.0 for record in records),
        },
    )
    if state.diverged_at is not None:
        log.warning("Diverged: a loss stopped being finite in epoch %d.", state.diverged_at)
    return outcome


def _saved(run: RunDir, config: Config) -> dict[str, Any] | None:
    """The checkpoint to resume from; a damaged one is reported and the run starts over."""
    try:
        return checkpoint.load(run.checkpoint, config.hash)
    except ValueError as error:
        log.warning("%s; starting from epoch 0.", error)
        return None


def _kept(saved: dict[str, Any], resources: Resources, run: RunDir) -> Resources:
    if saved["device"] != resources.kind:
        raise RuntimeError(
            f"{run.path} was begun on {saved['device']} and cannot go on on {resources.kind}; "
            "continue where that is (CUDA_VISIBLE_DEVICES= hides a GPU), or start over with "
            "force=true"
        )
    return Resources(resources.device, saved["precision"], saved["threads"])
