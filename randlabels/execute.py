"""One run, from its config to a finished folder; exact fits of one system together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch

from . import fit, journal, sharing, solve
from .config import Config
from .console import counted, log, logging_to, progress_bar
from .experiment import Experiment, assemble
from .machine import stopping
from .machine.resources import Resources, resolve, stream
from .machine.stopping import Interrupted, Watch
from .store import checkpoint, metrics
from .store.rundir import FINISHED, RunDir, write_atomic

KEPT = ("precision", "compile", "threads")
"""Resources that change the numbers: a run keeps those that it began with."""


def execute(config: Config, job: int | None = None, cores: int = 1, *, beside: bool = False) -> str:
    """Bring one run to its end, or find that it is there already; its state afterwards.

    `job` is the run's number in a sweep, None for a single run, and `cores` are the CPU threads
    of a run of a sweep. What goes wrong in the fit is written to error.json, so that the other
    runs of a sweep go on; but not that a GPU has too little memory left `beside` runs of other
    threads. The state is "running" where another process is at it, and
    "interrupted" where it was stopped; it then goes on next time. A process that was told to stop
    begins no run.

    Raises:
        ValueError: the run is refused; its folder was not made.
        OSError: error.json could not be written; what was raised in the fit.
        torch.OutOfMemoryError: only if `beside`; there is no error.json, and the run goes on next
            time.
    """
    if config.exact:
        return execute_exact([config], job, cores)[0]
    run = config.run
    prefix = journal.prefix(config, job is not None)
    if run.state() not in FINISHED:
        if stopping.reason(config.time_limit):
            return run.state()
        with sharing.assembling:
            experiment = assemble(config)
        resources = resolve(config, job, cores)
        with ExitStack() as held:
            if not journal.hold(run, held, prefix):
                return "running"
            bar = job is None and sys.stderr.isatty()
            held.enter_context(logging_to(run.log, prefix=prefix, quiet=bar))
            if run.result() is None:  # nobody else finished it in the meantime
                try:
                    with stream(resources.device):
                        return _fit(experiment, run, resources, held, bar=bar)
                except Interrupted:
                    return "interrupted"
                except Exception as error:
                    if beside and isinstance(error, torch.OutOfMemoryError):
                        log.warning("Out of memory beside other runs; to be executed again.")
                        raise
                    return journal.fail([run], error)
    journal.tell(run, prefix)
    return run.state()


def execute_exact(configs: Sequence[Config], job: int | None = None, cores: int = 1) -> list[str]:
    """`execute` for exact fits; those of one system are solved together."""
    systems: dict[tuple[str, str], list[Config]] = {}
    for config in configs:
        if config.run.state() not in FINISHED:
            key = solve.system_key(config), str(config.dataset.folder)
            systems.setdefault(key, []).append(config)
        elif len(configs) == 1:
            journal.tell(config.run, journal.prefix(config, job is not None))
    for group in systems.values():
        if not stopping.reason(group[0].time_limit):
            _solve(group, job, cores)
    return [config.run.state() for config in configs]


def _fit(
    experiment: Experiment, run: RunDir, resources: Resources, held: ExitStack, *, bar: bool
) -> str:
    """Train and record; the state that the run ends in."""
    config = experiment.config
    saved = checkpoint.latest(run, config.hash)
    if saved:  # a run keeps the resources that it began with
        resources = _kept(saved, resources, run)
    held.enter_context(sharing.cpu_threads(resources.threads))
    journal.begin(experiment, run, resources)

    state = fit.start(experiment, resources)
    if saved:
        state.restore(saved)
        log.warning("Resuming %s.", state.place)
    parameters = sum(p.numel() for p in state.model.parameters())
    log.info("Number of parameters: %d", parameters)
    write_atomic(run.metrics, metrics.encode_all(state.records))

    def commit() -> None:
        kept = {key: getattr(resources, key) for key in KEPT}
        identity = {"config_hash": config.hash, "device": resources.kind, **kept}
        checkpoint.save(run.checkpoint, {**identity, **state.to_dict()}, run.previous_checkpoint)

    steps = -(-len(experiment.train.labels) // config.batch_size)
    committed = perf_counter()
    with (
        open(run.metrics, "a", encoding="utf-8") as file,
        progress_bar(steps * config.epochs, steps * state.epoch + state.step, shown=bar) as (
            tick,
            caption,
        ),
    ):
        watch = Watch(config.time_limit, [run.beat])
        try:
            for record in fit.sgd(experiment, state, resources, tick, watch):
                if perf_counter() - committed >= config.checkpoint_every:
                    commit()
                    committed = perf_counter()
                file.write(metrics.encode(record) + "\n")
                file.flush()
                caption(journal.show(config, record).partition(", L-tr")[0])
        except Interrupted as reason:
            commit()
            log.warning("Stopped by %s; the same command goes on %s.", reason, state.place)
            raise
    if state.diverged_at is None:
        commit()
    return journal.finish(config, state.records, parameters, diverged_at=state.diverged_at)


def _solve(configs: Sequence[Config], job: int | None, cores: int) -> None:
    """Exact fits of one system: one solution, several run folders. There is no half of a
    solution, so that a run that was interrupted begins anew."""
    with ExitStack() as held:
        several = len(configs) > 1 or job is not None
        mine = [
            config
            for config in configs
            if journal.hold(config.run, held, journal.prefix(config, several))
            and config.run.result() is None
        ]
        if not mine:
            return
        with sharing.assembling:
            experiments = [assemble(config) for config in mine]
        resources = resolve(mine[0], job, cores)
        held.enter_context(sharing.cpu_threads(resources.threads))
        for experiment in experiments:
            journal.begin(experiment, experiment.config.run, resources)
        bar = job is None and sys.stderr.isatty()
        watch = Watch(mine[0].time_limit, [config.run.beat for config in mine])
        with logging_to(*(config.run.log for config in mine), quiet=bar):
            try:
                with progress_bar(1.0, 0, shown=bar) as (advance, caption):

                    def tick(share: float) -> None:
                        advance(share)
                        watch()

                    caption(f"{counted(len(mine), 'set')} of labels")
                    options = solve.solve_options(resources, tick)
                    solved = solve.solve(experiments, resources, options)
            except Interrupted as reason:
                log.warning("Stopped by %s; the same command solves it anew.", reason)
                return
            except Exception as error:
                journal.fail([config.run for config in mine], error)
                return
        for config, (record, parameters, report) in zip(mine, solved, strict=True):
            with logging_to(config.run.log, prefix=journal.prefix(config, several), quiet=bar):
                log.info("Number of parameters: %d", parameters)
                journal.show(config, record)
                log.info("%s", ", ".join(f"{k.replace('_', ' ')} {report[k]:.3g}" for k in report))
                journal.finish(config, [record], parameters, solution=report)


def _kept(saved: dict[str, Any], resources: Resources, run: RunDir) -> Resources:
    if saved["device"] != resources.kind:
        raise RuntimeError(
            f"{run.path} was begun on {saved['device']} and cannot go on on {resources.kind}; "
            "continue where that is (CUDA_VISIBLE_DEVICES= hides a GPU), or start over with "
            "force=true"
        )
    return replace(resources, **{key: saved[key] for key in KEPT if key in saved})
