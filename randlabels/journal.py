"""A run's folder and log, from its lock to its outcome, for both ways to fit."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

import torch
import yaml
from filelock import Timeout

from .config import Config
from .console import counted, log, logging_to
from .experiment import Experiment
from .machine.gpu import is_out_of_memory
from .machine.resources import Resources
from .machine.stopping import Interrupted, stop_launch
from .registry import import_files
from .store import metrics
from .store.files import make_folder, write_atomic
from .store.metrics import Record
from .store.provenance import describe
from .store.rundir import RunDir, write_json


def prefix(config: Config, several: bool) -> str | None:
    """Return what precedes a run's lines on standard output; None if a sweep does not show them."""
    if not several:
        return ""
    return f"{config.run_id} " if config.verbose else None


@contextmanager
def open_runs(configs: Sequence[Config], *, several: bool, quiet: bool) -> Iterator[list[Config]]:
    """Hold the locks of runs and log to their folders; give those that are still to be computed.

    A run of another process, or one finished in the meantime, is reported and left out. An
    exception of the fit is written to the log and to error.json, and raised only if that fails.
    quiet: only warnings go to standard output.
    """
    with ExitStack() as held:
        mine = [config for config in configs if _hold(config, held, prefix(config, several))]
        shown = prefix(configs[0], several)
        if shown and len(mine) > 1:
            shown = ""
        held.enter_context(logging_to(*(c.run.log for c in mine), prefix=shown, quiet=quiet))
        try:
            yield mine
        except Interrupted:
            pass
        except Exception as error:
            if configs[0].on_failure == "stop":
                stop_launch()
            _fail([config.run for config in mine], error)


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
        report_finished(run, prefix)
        return False
    return True


def begin(experiments: Sequence[Experiment], resources: Resources) -> None:
    """Write the first files of runs, and set the number of threads."""
    torch.set_num_threads(resources.threads)
    for experiment in experiments:
        run, config = experiment.config.run, experiment.config
        run.remove_leftovers()
        run.error.unlink(missing_ok=True)
        tree = yaml.dump(config.tree(), Dumper=yaml.CSafeDumper, sort_keys=False)
        write_atomic(run.config, tree)
        imports = import_files(config.imports)
        write_json(run.environment, describe(asdict(resources), experiment.data_sha256, imports))
        write_json(run.corruption, experiment.corruption)
    exact = experiments[0].config.exact
    log.info("On %s", str(resources).removesuffix(", CUDA graphs" if exact else ""))


def finish(
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
    if is_out_of_memory(error):
        exception += " (the GPU is out of memory; use fewer hydra.launcher.workers or a larger GPU)"
    log.error("%s", text)
    for run in runs:
        try:
            write_json(run.error, {"exception": exception, "traceback": text})
        except OSError:
            raise error from None


def report_finished(run: RunDir, prefix: str | None) -> None:
    """Print the result of a finished run in one line."""
    result = run.result() or {}
    accuracies = ", ".join(
        f"{key.replace('_', ' ')} {result['final'][key]:.2%}"
        for key in ("train_acc", "test_acc")
        if result["final"][key] is not None
    )
    after = f"{result['state']} after {counted(result['epochs'], 'epoch')}"
    with logging_to(prefix=prefix):
        log.info("Already %s: %s.", after, accuracies or "no metrics")
