"""All runs of one launch: checked before the first starts, and reported at the end."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cli.help import as_typed
from ..config import Config
from ..console import log, pluralize, print_table
from ..experiment import load
from ..store import metrics
from ..store.progress import differing_keys
from ..store.rundir import FINISHED, RunDir, flat_keys, merge_plan, planned_records, read_json
from .estimate import estimate
from .launcher import ANALYSIS, Errors, Launcher, PlannedRun


def begin(runs: Sequence[PlannedRun]) -> None:
    """Set earlier results aside where `force` asks for it, and write the plan."""
    folders: dict[Path, list[dict[str, Any]]] = {}
    for config, overrides in runs:
        if config.force and (old := config.run.set_aside()):
            log.info("%s: earlier results moved to %s", config.run_id, old)
        entry = {"run_id": config.run_id, "overrides": overrides, "config": config.tree()}
        folders.setdefault(config.folder, []).append(entry)
    for folder, entries in folders.items():
        merge_plan(folder, entries)


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


def close(configs: Sequence[Config], errors: Errors, stopped: str | None = None) -> int:
    """Print the result of each run from its files, and return the exit code.

    It is 1 if any run has no result and is not executed by another process, else 0.

    errors: by folder, what the runs' own files do not say. stopped: what ended the launch early.
    """
    rows, failures, unfinished = [], [], 0
    for config, values in zip(configs, varying(configs), strict=True):
        run, state = config.run, config.run.state()
        result = run.result() or _measured_so_far(run)
        final = result.get("final", {})
        measured = {
            "epochs": str(result.get("epochs", values.get("epochs", "-"))),
            "train acc": _number(final.get("train_acc"), ".2%"),
            "test acc": _number(final.get("test_acc"), ".2%"),
            "epochs to fit": _number(result.get("epochs_to_fit"), "d"),
            "seconds": _number(result.get("seconds"), ".1f"),
        }
        shown = f"diverged in epoch {result['diverged_at']}" if state == "diverged" else state
        rows.append({"run": config.run_id, "state": shown, **values, **measured})
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


def _number(value: Any, spec: str) -> str:
    return "-" if value is None else format(value, spec)
