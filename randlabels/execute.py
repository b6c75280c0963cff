"""One run, from its config to a finished folder; exact fits of one system together."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from . import dynamics, fit, journal, solve
from .checks import check_earlier_results, check_recorded
from .config import Config
from .console import counted, log, logging_to, progress_bar
from .experiment import Experiment, assemble
from .machine import gpu, stopping
from .machine.resources import Resources, resolve
from .machine.stopping import Interrupted, Watch
from .store import checkpoint, metrics
from .store.files import write_atomic
from .store.rundir import FINISHED, RunDir, read_json, write_json

FIXED_RESOURCES = ("precision", "compile", "threads")  # they change the numbers


def execute(configs: Sequence[Config], job: int | None = None, cores: int = 1) -> None:
    """Bring runs to their ends unless they are finished; exact fits of one system together.

    An exception of the fit is written to error.json, and raised only if that fails. The same call
    continues a run that was stopped. A process that was asked to stop begins no run. One whose GPU
    fails for good exits with `gpu.DEVICE_LOST_EXIT_CODE`. ValueError if a run is refused, before
    its folder is made.

    job: the run's number in a sweep, None for a single run. cores: CPU threads of a run of a sweep.
    """
    groups: dict[object, list[Config]] = {}
    for config in configs:
        if config.run.state() in FINISHED:
            journal.report_finished(config.run, journal.prefix(config, job is not None))
        else:
            same = solve.system_key(config) if config.exact else config.run_id
            groups.setdefault((same, config.dataset.folder), []).append(config)
    for group in groups.values():
        _compute(group, job, cores)


def _compute(configs: Sequence[Config], job: int | None, cores: int) -> None:
    if stopping.reason(configs[0].time_limit):
        return
    experiments = [assemble(config) for config in configs]
    for each in experiments:
        check_earlier_results(each.config, each.data_sha256, each.corruption)
        check_recorded(each.config)
    resources = resolve(configs[0], job, cores)
    several = job is not None
    bar = not several and sys.stderr.isatty()
    with journal.open_runs(configs, several=several, quiet=bar) as mine:
        experiments = [each for each in experiments if each.config in mine]
        if experiments:
            if resources.kind == "cuda":
                gpu.set_arithmetic()
            with gpu.stream(resources.device):
                if configs[0].exact:
                    _solve(experiments, resources, bar=bar, several=several)
                else:
                    _fit(experiments[0], resources, bar=bar)
    gpu.exit_if_lost(resources.device)


def _fit(experiment: Experiment, resources: Resources, *, bar: bool) -> None:
    config, run = experiment.config, experiment.config.run
    saved = checkpoint.latest(run, config.hash)
    if saved:
        resources = _kept(saved, resources, run)
    config.examples |= run.records_examples()
    journal.begin([experiment], resources)
    state = fit.start(experiment, resources)
    if saved:
        state.restore(saved)
        if config.examples and state.evaluations and state.dynamics is None:
            raise RuntimeError(
                f"examples=true must be set from the first epoch, and {run.path} has a checkpoint "
                "without; use force=true or another name"
            )
        log.warning("Resuming %s.", state.place)
    parameters = sum(p.numel() for p in state.model.parameters())
    log.info("Number of parameters: %d", parameters)
    write_atomic(run.metrics, metrics.encode_all(state.records))

    used = {key: getattr(resources, key) for key in FIXED_RESOURCES}
    identity = {"config_hash": config.hash, "device": resources.kind, **used}

    def keep_weights() -> None:
        epoch = state.epoch - 1
        if epoch in config.keep and state.step == 0:
            weights = {name: tensor.cpu() for name, tensor in state.model.state_dict().items()}
            run.weights(epoch).parent.mkdir(exist_ok=True)
            checkpoint.save(run.weights(epoch), {**identity, "epoch": epoch, "model": weights})

    def commit() -> None:
        checkpoint.save(run.checkpoint, {**identity, **state.to_dict()}, run.previous_checkpoint)
        write_examples()

    def write_examples() -> None:
        if state.dynamics is not None:
            write_atomic(run.examples, dynamics.encode(state.dynamics, experiment.train))

    keep_weights()  # the initial ones, and those of a checkpoint that had no such key
    steps = -(-len(experiment.train.labels) // config.batch_size)
    done = steps * state.epoch + state.step
    shown = progress_bar(steps * config.epochs, done, shown=bar)
    watch = Watch(config.time_limit, [run.beat])
    committed = perf_counter()
    with open(run.metrics, "a", encoding="utf-8") as file, shown as (tick, caption):
        try:
            for record in fit.sgd(experiment, state, resources, tick, watch):
                keep_weights()  # before the checkpoint, after which they could not be written
                if perf_counter() - committed >= config.checkpoint_every:
                    commit()
                    committed = perf_counter()
                file.write(metrics.encode(record) + "\n")
                file.flush()
                line = metrics.console_line(record, noisy=config.corrupt > 0)
                log.info("%s", line)
                caption(line.partition(", L-tr")[0])
        except Interrupted as reason:
            commit()
            log.warning("Stopped by %s; the same command continues %s.", reason, state.place)
            raise
        finally:
            if state.captured is not None:
                environment = read_json(run.environment) or {}
                write_json(run.environment, {**environment, "captured": state.captured})
    if state.diverged_at is None:
        commit()
    else:
        write_examples()
    journal.finish(config, state.records, parameters, diverged_at=state.diverged_at)


def _solve(
    experiments: Sequence[Experiment], resources: Resources, *, bar: bool, several: bool
) -> None:
    """Solve one system for several runs. It has no checkpoint: an interrupted run restarts."""
    configs = [experiment.config for experiment in experiments]
    journal.begin(experiments, resources)
    watch = Watch(configs[0].time_limit, [config.run.beat for config in configs])
    with progress_bar(1.0, 0, shown=bar) as (advance, caption):

        def tick(share: float) -> None:
            advance(share)
            watch()

        caption(f"{counted(len(configs), 'set')} of labels")
        try:
            solved = solve.solve(experiments, resources, tick)
        except Interrupted as reason:
            log.warning("Stopped by %s; the same command solves it again from the start.", reason)
            raise
    for config, (record, solution) in zip(configs, solved, strict=True):
        with logging_to(config.run.log, prefix=journal.prefix(config, several), quiet=bar):
            log.info("Number of parameters: %d", solution.parameters)
            log.info("%s", metrics.console_line(record, noisy=config.corrupt > 0))
            report = solution.report
            log.info("%s", ", ".join(f"{k.replace('_', ' ')} {report[k]:.3g}" for k in report))
            journal.finish(config, [record], solution.parameters, solution=report)


def _kept(saved: dict[str, Any], resources: Resources, run: RunDir) -> Resources:
    """Return the resources that a run began with; RuntimeError on another kind of device."""
    if saved["device"] != resources.kind:
        raise RuntimeError(
            f"{run.path} was begun on {saved['device']} and cannot continue on {resources.kind}; "
            "continue where that is (CUDA_VISIBLE_DEVICES= hides a GPU), or start over with "
            "force=true"
        )
    return replace(resources, **{key: saved[key] for key in FIXED_RESOURCES if key in saved})
