"""Published numbers, and which runs have the config keys of their experiments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from randlabels.store.rundir import FINISHED

FOLDER = Path(__file__).parent / "published"
"""experiments.csv holds the config keys of each experiment: those of the experiment in `like`, then
its own. One more file per target holds its numbers. Its columns are source, row, experiment,
corrupt, metric, epoch (0-based, or `last`), value (empty where training failed to converge),
uncertainty (of reading a figure, or of a mean), fit_threshold, chosen (a setting chosen to match
this row), and note."""

MAX_DIFFERENT_KEYS = 4
"""The nearest run is named only if it differs from an experiment in at most this many keys."""


def targets() -> list[str]:
    """Return the targets of a comparison."""
    return sorted(file.stem for file in FOLDER.glob("*.csv") if file.stem != "experiments")


def read(target: str) -> pd.DataFrame:
    """Return the numbers of a target with their `keys`, `dataset` and notes.

    `keys` is `key=value` separated by spaces, and contains `dataset`.
    """
    experiments = pd.read_csv(FOLDER / "experiments.csv", keep_default_na=False)
    keys: dict[str, dict[str, str]] = {"": {}}
    notes: dict[str, list[str]] = {"": []}
    for experiment in experiments.to_dict("records"):  # each after the one that it is like
        name, like, note = experiment["experiment"], experiment["like"], experiment["note"]
        own = (text.partition("=") for text in experiment["keys"].split())
        keys[name] = keys[like] | {key: value for key, _, value in own}
        notes[name] = [*notes[like], note] if note else notes[like]
    texts = {"epoch": str, "chosen": object, "note": object}
    numbers = pd.read_csv(FOLDER / f"{target}.csv", dtype=texts)
    numbers = numbers.fillna({"chosen": "", "note": ""})
    wanted, notes_of, datasets = [], [], []
    for number in numbers.to_dict("records"):
        chosen = keys[number["experiment"]] | {"corrupt": number["corrupt"]}
        if number["metric"] == "relative":
            chosen["eval_every"] = "1"  # the resolution of a time to fit
        wanted.append(" ".join(f"{key}={value}" for key, value in chosen.items()))
        datasets.append(chosen["dataset"])
        notes_of.append("; ".join(filter(None, [number["note"], *notes[number["experiment"]]])))
    return numbers.assign(keys=wanted, note=notes_of, dataset=datasets)


def covering(runs: pd.DataFrame, keys: str) -> pd.Series:
    """Return which runs (N,) bool are finished and have all `keys`, `key=value` separated by
    spaces."""
    fits = runs["state"].isin(FINISHED)
    for key, value in pairs(keys):
        if key not in runs or not fits.any():
            return fits & False
        fits &= runs[key].map(_canonical) == _canonical(value)
    return fits


def nearest(runs: pd.DataFrame, choices: list[str]) -> str:
    """Return the finished run that is nearest to any of `choices` of keys, and how it differs.

    Nothing if more than `MAX_DIFFERENT_KEYS` keys differ.
    """
    wanted_keys = [dict(pairs(keys)) for keys in choices]
    known = sorted({key for wanted in wanted_keys for key in wanted} & set(runs.columns))
    finished = runs.loc[runs["state"].isin(FINISHED), ["run_id", *known]]
    canonical = finished[known].map(_canonical)
    found, least = "", MAX_DIFFERENT_KEYS + 1
    for wanted in wanted_keys:
        if finished.empty or not wanted.keys() <= set(known):
            continue
        values = pd.Series({key: _canonical(value) for key, value in wanted.items()})
        differs = canonical[list(wanted)].ne(values)
        nearest_run: Any = differs.sum(axis=1).idxmin()
        different = [key for key in wanted if differs.loc[nearest_run, key]]
        if len(different) < least:
            least, run = len(different), finished.loc[nearest_run]
            texts = [f"{key}={_text(run[key])}, not {_text(wanted[key])}" for key in different]
            found = f"; nearest is {run['run_id']} with {'; '.join(texts)}"
    return found


def pairs(keys: str) -> list[tuple[str, Any]]:
    """Return keys and values of `key=value` texts separated by spaces."""
    texts = (part.partition("=") for part in keys.split())
    return [(key, yaml.safe_load(value)) for key, _, value in texts]


def _text(value: Any) -> str:
    return "null" if _canonical(value) == "null" else str(value)


def _canonical(value: Any) -> str:
    """Return one text for values that mean the same: 1 and 1.0, null and missing."""
    if isinstance(value, list):
        return str(value)
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "null"
    try:
        return str(value) if isinstance(value, bool) else repr(float(value))
    except ValueError:
        return str(value)
