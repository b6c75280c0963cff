"""Published numbers, and which runs have the config keys of their experiments."""

from __future__ import annotations

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

MAX_DIFFERENT_KEYS = 4  # of an experiment and the nearest run, which is named only up to this


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
    for name, like, own, note in experiments.values.tolist():  # `like` is above
        keys[name] = keys[like] | dict(pair.split("=", 1) for pair in own.split())
        notes[name] = [*notes[like], note]
    texts = {"epoch": str, "chosen": object, "note": object}
    numbers = pd.read_csv(FOLDER / f"{target}.csv", dtype=texts)
    numbers = numbers.fillna({"chosen": "", "note": ""})
    wanted, all_notes = [], []
    for number in numbers.to_dict("records"):
        chosen = keys[number["experiment"]] | {"corrupt": number["corrupt"]}
        if number["metric"] == "relative":
            chosen["eval_every"] = "1"  # the resolution of a time to fit
        wanted.append(" ".join(f"{key}={value}" for key, value in chosen.items()))
        all_notes.append("; ".join(filter(None, [number["note"], *notes[number["experiment"]]])))
    datasets = numbers["experiment"].map(lambda experiment: keys[experiment]["dataset"])
    return numbers.assign(keys=wanted, note=all_notes, dataset=datasets)


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
    finished = runs[runs["state"].isin(FINISHED)]
    canonical = finished.filter(sorted(dict(pairs(" ".join(choices))))).map(_canonical)
    found, least = "", MAX_DIFFERENT_KEYS + 1
    for wanted in (dict(pairs(keys)) for keys in choices):
        if finished.empty or not wanted.keys() <= set(canonical):
            continue
        differs = canonical[list(wanted)] != pd.Series(wanted).map(_canonical)
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
    if isinstance(value, bool | list):
        return str(value)
    if pd.isna(value):
        return "null"
    try:
        return repr(float(value))
    except ValueError:
        return str(value)
