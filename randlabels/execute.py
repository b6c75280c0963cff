"""One run, from its config to a finished folder; exact fits of one system together."""

import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

import torch
import yaml
from filelock import Timeout

from . import dynamics, fit, solve
from .checks import check_earlier_results, check_recorded
from .config import Config
from .console import log, logging_to, pluralize, progress_bar
from .experiment import Experiment, assemble
from .machine import gpu, stopping
from .machine.resources import Resources, resolve
from .machine.stopping import Interrupted, Watch
from .registry import import_files
from .store import checkpoint, metrics
from .store.files import make_folder, write_atomic
from .store.metrics import Record
from .store.provenance import describe
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
    finished = [config for config in configs if config.run.state() in FINISHED]
    for config in finished:
        _report_finished(config.run, _prefix(config, job is not None))
    for group in solve.group_by_system([c for c in configs if c not in finished]):
        _compute(group, job, cores)


def _compute(configs: Sequence[Config], job: int | None, cores: int) -> None:
    """Compute runs that no other process holds, one or of one system, and log to their folders."""
    if stopping.reason(configs[0].time_limit):
        return
    experiments = [assemble(config) for config in configs]
    for each in experiments:
        check_earlier_results(each.config, each.data_sha256, each.corruption)
        check_recorded(each.config)
    resources = resolve(configs[0], job, cores)
    several = job is not None
    bar = not several and sys.stderr.isatty()
    with ExitStack() as held:
        experiments = [e for e in experiments if _hold(e.config, held, _prefix(e.config, several))]
        if not experiments:
            return
        shown = _prefix(configs[0], several)
        if shown and len(experiments) > 1:
            shown = ""
        logs = [each.config.run.log for each in experiments]
        held.enter_context(logging_to(*logs, prefix=shown, quiet=bar))
        try:
            if resources.kind == "cuda":
                gpu.set_arithmetic()
            with gpu.stream(resources.device):
                if configs[0].exact:
                    _solve(experiments, resources, bar=bar, several=several)
                else:
                    _fit(experiments[0], resources, bar=bar)
        except Interrupted:
            pass
        except Exception as error:
            if configs[0].on_failure == "stop":
                stopping.stop_launch()
            _fail([each.config.run for each in experiments], error)
    gpu.exit_if_lost(resources.device)


def _prefix(config: Config, several: bool) -> str | None:
    """Return what precedes a run's lines on standard output; None if a sweep does not show them."""
    if not several:
        return ""
    return f"{config.run_id} " if config.verbose else None


def _hold(config: Config, held: ExitStack, prefix: str | None) -> bool:
    """Make the run's folder and take its lock; False where it is locked or finished."""
    run = config.run
    run.check_links()
    make_folder(run.path)
    try:
        held.enter_context(run.lock(timeout=1))
    except Timeout:
        with logging_to(prefix=f"{config.run_id} " if prefix is None else prefix):
            log.warning("This run is being executed by %s.", run.holder())
        return False
    if run.result():
        _report_finished(run, prefix)
        return False
    return True


def _begin(experiments: Sequence[Experiment], resources: Resources) -> None:
    """Write the first files of runs, and set the number of threads."""
    torch.set_num_threads(resources.threads)
    for experiment in experiments:
        run, config = experiment.config.run, experiment.config
        run.remove_leftovers()
        run.error.unlink(missing_ok=True)
        tree = yaml.dump(config.tree(), Dumper=yaml.CSafeDumper, sort_keys=False)
        write_atomic(run.config, tree)
        more = {"data_sha256": experiment.data_sha256, "imports": import_files(config.imports)}
        write_json(run.environment, describe(asdict(resources), **more))
        write_json(run.corruption, experiment.corruption)
    exact = experiments[0].config.exact
    log.info("On %s", str(resources).removesuffix(", CUDA graphs" if exact else ""))


def _fit(experiment: Experiment, resources: Resources, *, bar: bool) -> None:
    config, run = experiment.config, experiment.config.run
    saved = checkpoint.latest(run, config.hash)
    if saved:
        resources = _kept(saved, resources, run)
    config.examples |= run.records_examples()
    _begin([experiment], resources)
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
    _finish(config, state.records, parameters, diverged_at=state.diverged_at)


def _kept(saved: dict[str, Any], resources: Resources, run: RunDir) -> Resources:
    """Return the resources that a run began with; RuntimeError on another kind of device."""
    if saved["device"] != resources.kind:
        raise RuntimeError(
            f"{run.path} was begun on {saved['device']} and cannot continue on {resources.kind}; "
            "continue where that is (CUDA_VISIBLE_DEVICES= hides a GPU), or start over with "
            "force=true"
        )
    return replace(resources, **{key: saved[key] for key in FIXED_RESOURCES if key in saved})


def _solve(
    experiments: Sequence[Experiment], resources: Resources, *, bar: bool, several: bool
) -> None:
    """Solve one system for several runs. It has no checkpoint: an interrupted run restarts."""
    configs = [experiment.config for experiment in experiments]
    _begin(experiments, resources)
    watch = Watch(configs[0].time_limit, [config.run.beat for config in configs])
    with progress_bar(1.0, 0, shown=bar) as (advance, caption):

        def tick(share: float) -> None:
            advance(share)
            watch()

        caption(f"{pluralize(len(configs), 'set')} of labels")
        try:
            solved = solve.solve(experiments, resources, tick)
        except Interrupted as reason:
            log.warning("Stopped by %s; the same command solves it again from the start.", reason)
            raise
    for config, (record, solution) in zip(configs, solved, strict=True):
        with logging_to(config.run.log, prefix=_prefix(config, several), quiet=bar):
            log.info("Number of parameters: %d", solution.parameters)
            log.info("%s", metrics.console_line(record, noisy=config.corrupt > 0))
            report = solution.report
            log.info("%s", ", ".join(f"{k.replace('_', ' ')} {report[k]:.3g}" for k in report))
            _finish(config, [record], solution.parameters, solution=report)


def _finish(
    config: Config,
    records: Sequence[Record],
    parameters: int,
    *,
    diverged_at: int | None = None,
    **more: object,
) -> None:
    """Write the last files, done.json after all others, with `more` keys."""
    run = config.run
    write_atomic(run.metrics, metrics.encode_all(records))
    result = {
        "config_hash": config.hash,
        "state": "done" if diverged_at is None else "diverged",
        "diverged_at": diverged_at,
        "epochs": len(records),
        "final": metrics.final(records),
        "best": metrics.best(records),
        "epochs_to_fit": metrics.epochs_to_fit(records, config.fit_threshold),
        "parameters": parameters,
        "seconds": sum(record["seconds"] or 0.0 for record in records),
        **more,
    }
    write_json(run.done, result)
    if diverged_at is not None:
        log.warning("Diverged: a loss stopped being finite in epoch %d.", diverged_at)


def _fail(runs: Sequence[RunDir], error: Exception) -> None:
    """Write an exception to the log and to each run's error.json; raise it on a full disk."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(runs[0].path)
    text = traceback.format_exc()
    exception = f"{type(error).__name__}: {error}".strip()
    if gpu.is_out_of_memory(error):
        exception += " (the GPU is out of memory; use fewer hydra.launcher.workers or a larger GPU)"
    log.error("%s", text)
    for run in runs:
        try:
            write_json(run.error, {"exception": exception, "traceback": text})
        except OSError:
            raise error from None


def _report_finished(run: RunDir, prefix: str | None) -> None:
    """Print the result of a finished run in one line."""
    result = run.result() or {}
    accuracies = ", ".join(
        f"{key.replace('_', ' ')} {result['final'][key]:.2%}"
        for key in ("train_acc", "test_acc")
        if result["final"][key] is not None
    )
    after = f"{result['state']} after {pluralize(result['epochs'], 'epoch')}"
    with logging_to(prefix=prefix):
        log.info("Already %s: %s.", after, accuracies or "no metrics")
