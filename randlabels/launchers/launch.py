"""All runs of one launch: checked, planned with their cost or started, and reported at the end."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import fit
from ..checks import check
from ..cli import as_typed
from ..config import Config
from ..console import log, logging_to, pluralize, print_table
from ..experiment import assemble, load
from ..live import duration, showing
from ..machine import gpu
from ..machine.resources import cpu_count, resolve
from ..machine.stopping import exit_code, launching, reason
from ..solve import group_by_system
from ..store import metrics, rundir
from ..store.progress import Tracker, differing_keys
from ..store.rundir import FINISHED, RunDir, flat_keys, planned_records, read_json
from .launcher import ANALYSIS, Errors, Launcher, Until, perform

# Keys and groups that hardly change the time of an epoch.
COSTLESS = ("corrupt", "seed", "epochs", "corruption", "schedule", "optimizer", "loss")
MEASURED_STEPS = 4  # in an epoch; on a GPU, all of the second epoch are then captured


def launch(runs: Sequence[tuple[Config, Sequence[str]]], launcher: Launcher) -> int:
    """Check all runs, start those without a result, report, and return the exit code.

    It is 0 if all runs are done, diverged, skipped, or submitted without waiting, else 1, or
    that of the signal that ended the launch. ValueError if a run is refused; none was started.

    runs: configs with their overrides.
    """
    configs = [config for config, _ in runs]
    to_do = [config for config in configs if config.force or config.run.state() not in FINISHED]
    limit, plan, verbose = configs[0].time_limit, configs[0].plan, configs[0].verbose
    if not launcher.local and any(config.on_failure == "stop" for config in to_do):
        raise ValueError(
            "on_failure=stop must be continue with hydra/launcher=slurm, whose jobs this process "
            "cannot stop; use basic, joblib or packed"
        )
    if not plan:
        launcher.check()
    check(configs, here=launcher.local)
    if plan:
        show_plan(configs, launcher)
        if request := launcher.request(len(to_do)):
            print(request)
        return 0
    with logging_to():
        begin(runs)
        log.info("%s, %d of them to do", pluralize(len(runs), "run"), len(to_do))
        for folder in sorted({config.folder for config in to_do}):
            log.info("Progress: python -m %s.status %s --watch", ANALYSIS, folder)
    errors: Errors | None = {}
    if to_do and launcher.local:
        progress = Tracker((c.run, flat_keys(c.tree())) for c in to_do)
        shown = contextlib.nullcontext() if verbose else showing(progress.look)
        with shown, launching():
            errors = execute_here(to_do, launcher, partial(reason, limit))
    elif to_do:
        errors = launcher.start(to_do, partial(reason, limit))
    if errors is None:
        return 0
    stopped = reason(limit)
    if limit and any(config.run.state() == "interrupted" for config in configs):
        stopped = stopped or f"time_limit={limit:g}"  # a worker stops before the limit
    code = close(configs, errors, stopped)
    return exit_code() if stopped and code else code


def execute_here(configs: Sequence[Config], launcher: Launcher, until: Until) -> Errors:
    """Solve exact fits in this process, where they share factorisations, then start the others."""
    errors: Errors = {}
    for same in group_by_system([config for config in configs if config.exact]):
        if error := perform([config.tree() for config in same], 0, cpu_count()):
            errors |= {config.run.path: error for config in same}
    if others := [config for config in configs if not config.exact]:
        errors |= launcher.start(others, until) or {}
    return errors


def begin(runs: Sequence[tuple[Config, Sequence[str]]]) -> None:
    """Set earlier results aside where `force` asks for it, and write the plan."""
    folders: dict[Path, list[dict[str, Any]]] = {}
    for config, overrides in runs:
        if config.force and (old := config.run.set_aside()):
            log.info("%s: earlier results moved to %s", config.run_id, old)
        entry = {"run_id": config.run_id, "overrides": overrides, "config": config.tree()}
        folders.setdefault(config.folder, []).append(entry)
    for folder, entries in folders.items():
        rundir.merge_plan(folder, entries)


def show_plan(configs: Sequence[Config], launcher: Launcher | None = None) -> None:
    """Print the runs with their states and costs, for `plan=true`."""
    rows, images, to_go = [], 0, []
    for config, values in zip(configs, varying(configs), strict=True):
        state = config.run.state()
        size = config.dataset.train_size or len(load(config.dataset).train.labels)
        epochs = planned_records(flat_keys(config.tree()))
        begun = 0 if config.force else epochs if state in FINISHED else config.run.records()
        to_go.append(max(0, epochs - begun))
        cost = size * to_go[-1]
        images += cost
        costs = {"epochs": str(epochs), "images": f"{size:,}", "images to go": f"{cost:,}"}
        rows.append({"run": config.run_id, "state": state, **values, **costs})
    _print_table(f"Plan: {_count_states(configs)}", rows)
    print(f"In all {images:,} training images to go; nothing was started.")
    if time := estimate(configs, to_go, launcher):
        print(time)


def estimate(configs: Sequence[Config], epochs: Sequence[int], launcher: Launcher | None) -> str:
    """Return a sentence on how long runs take that have `epochs` to go, and how this is known.

    launcher: None for a single run.
    """
    seconds: dict[str, tuple[float, str]] = {}  # of an epoch by kind, and what shows it
    for folder in {config.folder for config in configs}:
        for run_id, entry in rundir.read_plan(folder).items():
            result = RunDir(folder / run_id).result()
            if result and result["epochs"] and "config" in entry:
                length = result["seconds"] / result["epochs"]
                seconds[_kind(entry["config"])] = length, f"runs done in {folder}"
    times, sources = [], []
    for config, to_go in zip(configs, epochs, strict=True):
        kind = _kind(config.tree())
        if to_go and kind not in seconds and (not launcher or launcher.local) and not config.exact:
            if measured := measure_epoch(config, 0 if launcher else None):
                seconds[kind] = measured, "a short measurement"
        if to_go and kind in seconds:
            length, source = seconds[kind]
            times.append(to_go * length)
            sources.append(source)
    unknown = sum(map(bool, epochs)) - len(times)
    more = f" {pluralize(unknown, 'run')} come on top, once one like it is done." if unknown else ""
    if not times:
        return "The time is unknown until one run like it is done." if unknown else ""
    workers = min(len(times), launcher.count_workers(configs) if launcher else 1)
    total = duration(max(sum(times) / workers, *times))
    source = " and ".join(dict.fromkeys(sources))
    return f"About {total} with {pluralize(workers, 'worker')}, an estimate from {source}.{more}"


def _kind(tree: Mapping[str, Any]) -> str:
    """Return what the time of an epoch depends on."""
    keys = flat_keys(tree)
    return repr({key: keys[key] for key in keys if key.partition(".")[0] not in COSTLESS})


def measure_epoch(config: Config, job: int | None) -> float | None:
    """Return the seconds of an epoch of a run, its evaluation counted; None if it diverges.

    The second of two epochs of MEASURED_STEPS is measured, and scaled to all images.
    job: as `resources.resolve` takes it.
    """
    data = load(config.dataset)
    train = config.dataset.train_size or len(data.train.labels)
    test = config.dataset.test_size or len(data.test.labels)
    size = min(train, MEASURED_STEPS * config.batch_size)
    dataset = replace(config.dataset, train_size=size, test_size=min(size, test))
    experiment = assemble(replace(config, dataset=dataset, epochs=2, eval_every=1, keep=[]))
    resources, threads = resolve(config, job), torch.get_num_threads()
    torch.set_num_threads(resources.threads)
    with gpu.stream(resources.device):
        records = [*fit.sgd(experiment, fit.start(experiment, resources), resources)]
    torch.set_num_threads(threads)
    if not records:
        return None
    seconds, speed = records[-1]["seconds"], records[-1]["images_per_second"]
    assert seconds and speed
    evaluation = (seconds - size / speed) * (train + test) / (size + min(size, test))
    return train / speed + evaluation / config.eval_every


def close(configs: Sequence[Config], errors: Errors, stopped: str | None = None) -> int:
    """Print the result of each run from its files, and return the exit code.

    It is 1 if any run has no result and is not executed by another process, else 0.

    errors: by folder, what the runs' own files do not say. stopped: what ended the launch early.
    """
    rows, failures, unfinished = [], [], 0
    shown = {"train_acc": ".2%", "test_acc": ".2%", "epochs_to_fit": "d", "seconds": ".1f"}
    for config, values in zip(configs, varying(configs), strict=True):
        run, state = config.run, config.run.state()
        result = run.result() or _measured_so_far(run)
        found = {**result, **result.get("final", {})}
        measured = {"epochs": str(found.get("epochs", values.get("epochs", "-")))}
        for key, spec in shown.items():
            value = found.get(key)
            measured[key.replace("_", " ")] = "-" if value is None else format(value, spec)
        ended = f"diverged in epoch {result['diverged_at']}" if state == "diverged" else state
        rows.append({"run": config.run_id, "state": ended, **values, **measured})
        if state not in (*FINISHED, "running"):
            unfinished += 1
            error = (read_json(run.error) or {}).get("exception") or errors.get(run.path)
            if error or not stopped:
                where = f"; see {run.log}" if run.log.is_file() else ""
                failures.append(f"{run.run_id}: {state}, {error or 'no result'}{where}")
    _print_table(_count_states(configs), rows)
    for failure in failures:
        print(failure)
    for folder in sorted({config.folder for config in configs if config.folder.exists()}):
        print(f"Tables: python -m {ANALYSIS}.collect {folder}")
    if stopped and unfinished:
        print(f"Stopped by {stopped}. The same command continues what is not finished.")
    return 1 if unfinished else 0


def _measured_so_far(run: RunDir) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        if records := metrics.read(run.metrics)[0]:
            return {"final": metrics.final(records), "epochs": len(records)}
    return {}


def varying(configs: Sequence[Config]) -> list[dict[str, str]]:
    """Return the values of each run, or `-`, for the keys that differ and that no run id shows."""
    runs = [flat_keys(config.tree()) for config in configs]
    in_run_id = ("model", "dataset", "corruption", "corrupt", "seed")
    several = [key for key in differing_keys(runs) if key not in in_run_id]
    return [{key: as_typed(keys.get(key, "-")) for key in several} for keys in runs]


def _count_states(configs: Sequence[Config]) -> str:
    counts = Counter(config.run.state() for config in configs)
    folders = ", ".join(sorted({str(config.folder) for config in configs}))
    states = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    return f"{pluralize(len(configs), 'run')} in {folders}: {states}"


def _print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    print_table(title, list(rows[0]), [list(row.values()) for row in rows])
