"""How long runs will take: from runs that are done, or from a short measurement of their models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from .. import fit
from ..config import Config
from ..console import pluralize
from ..experiment import assemble, load
from ..live import duration
from ..machine import gpu
from ..machine.resources import resolve
from ..store.rundir import RunDir, flat_keys, read_plan
from .launcher import Launcher

# Keys and groups that hardly change the time of an epoch.
COSTLESS = ("corrupt", "seed", "epochs", "corruption", "schedule", "optimizer", "loss")
MEASURED_SECONDS = 0.2  # at least, of a measured epoch, unless it has all images


def estimate(configs: Sequence[Config], epochs: Sequence[int], launcher: Launcher | None) -> str:
    """Return a sentence on how long runs take that have `epochs` to go, and how this is known.

    launcher: None for a single run.
    """
    seconds = _seconds_of_done_runs(configs)
    here = launcher is None or launcher.local
    times, sources = [], []
    for config, to_go in zip(configs, epochs, strict=True):
        kind = _kind(config.tree())
        if to_go and here and kind not in seconds and not config.exact:
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


def _seconds_of_done_runs(configs: Sequence[Config]) -> dict[str, tuple[float, str]]:
    """Return the seconds of an epoch by kind, and which runs show it."""
    found = {}
    for folder in {config.folder for config in configs}:
        for run_id, entry in read_plan(folder).items():
            result = RunDir(folder / run_id).result()
            if result and result["epochs"] and "config" in entry:
                length = result["seconds"] / result["epochs"]
                found[_kind(entry["config"])] = length, f"runs done in {folder}"
    return found


def _kind(tree: Mapping[str, Any]) -> str:
    """Return what the time of an epoch depends on."""
    keys = flat_keys(tree)
    return repr({key: keys[key] for key in keys if key.partition(".")[0] not in COSTLESS})


def measure_epoch(config: Config, job: int | None) -> float | None:
    """Return the seconds of an epoch of a run, its evaluation counted; None if it diverges.

    The second of two epochs on a subset is measured, of one step or of MEASURED_SECONDS, and scaled
    to all images. job: as `resources.resolve` takes it.
    """
    data = load(config.dataset)
    train = config.dataset.train_size or len(data.train.labels)
    test = config.dataset.test_size or len(data.test.labels)
    resources, threads = resolve(config, job), torch.get_num_threads()
    size = min(train, config.batch_size)
    while True:
        torch.set_num_threads(resources.threads)
        small = min(size, test)
        dataset = replace(config.dataset, train_size=size, test_size=small)
        experiment = assemble(replace(config, dataset=dataset, epochs=2, eval_every=1, keep=[]))
        with gpu.stream(resources.device):
            state = fit.start(experiment, resources)
            records = [*fit.sgd(experiment, state, resources)]
        torch.set_num_threads(threads)
        if not records:
            return None
        last = records[-1]
        assert last["seconds"] and last["images_per_second"]
        if last["seconds"] >= MEASURED_SECONDS or size == train:
            break
        size = min(train, 4 * size)
    training = size / last["images_per_second"]
    share = (train + test) / (size + small) / config.eval_every
    return training * train / size + (last["seconds"] - training) * share
