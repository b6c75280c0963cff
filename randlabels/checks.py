"""Checks that can refuse a run; values of keys are checked in `config`."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.modules.dropout import _DropoutNd

from .config import Config
from .dataset import Data
from .experiment import build_model, image_shape, label_checksums, load
from .machine.resources import check_machine, free_memory, resolve
from .model import ExactModel, SolveOptions
from .solve import dtype_of
from .store.rundir import read_json

SET_ASIDE = "give this launch a name=, or force=true to set the old results aside"


def check(configs: Sequence[Config], *, here: bool = True) -> None:
    """Check the device, data set, sizes, labels, model and earlier results of runs.

    Missing data are downloaded before any worker needs them. ValueError: one sentence with the
    value, the rule and the remedy.

    here: the runs are executed on this machine, whose GPUs and memory are checked.
    """
    if here:
        for each in {(c.device, c.precision, c.compile, c.threads): c for c in configs}.values():
            check_machine(each)
    checked: set[str] = set()
    checksums: dict[str, dict[str, str]] = {}
    for config in sorted(configs, key=lambda config: repr(config.dataset)):  # loads each data once
        data = load(config.dataset)
        key = repr((config.dataset, config.corruption, config.corrupt))
        if key not in checksums:
            checksums[key] = label_checksums(config, data)
        resources = config.device, config.precision
        model = repr((*resources, config.dataset, config.model, config.preprocess))
        if model not in checked:
            checked.add(model)
            check_model(config, data, here=here)
        if config.force and config.run.state() == "running":
            raise ValueError(
                f"{config.run.path} is being executed by {config.run.holder()}; "
                "stop that first, or launch without force=true"
            )
        check_earlier_results(config, data.sha256, checksums[key])
        check_recorded(config)


def check_earlier_results(
    config: Config, data_sha256: str, labels: dict[str, str], remedy: str = SET_ASIDE
) -> None:
    """Raise ValueError if the run's folder has results of other data or `label_checksums`."""
    if config.force:
        return
    stored = read_json(config.run.environment) or {}
    if stored.get("data_sha256", data_sha256) != data_sha256:
        raise ValueError(
            f"{config.run.path} was computed on other data than {config.dataset.name} in "
            f"{config.dataset.folder} is now; {remedy}"
        )
    stored = read_json(config.run.corruption) or {}
    for key in ("sha256", "train_sha256", "test_sha256"):
        if stored.get(key, labels[key]) != labels[key]:
            raise ValueError(
                f"{config.run.path} was computed on other labels ({key} of corruption.json) than "
                f"corruption={config.corruption.name} gives now; {remedy}"
            )


def check_recorded(config: Config) -> None:
    """Raise ValueError if the run is past an epoch whose weights or examples it should have."""
    run, passed = config.run, config.run.records()
    if config.force:
        return
    if missed := [e for e in config.keep if max(e, 0) < passed and not run.weights(e).is_file()]:
        raise ValueError(
            f"keep={missed} must be ahead of {run.path}, which has {passed} epochs and did not "
            f"keep these weights; {SET_ASIDE}"
        )
    if config.examples and passed and not run.records_examples():
        raise ValueError(
            f"examples=true must be set from the first epoch, and {run.path} has "
            f"{passed} without; {SET_ASIDE}"
        )


def check_model(config: Config, data: Data, *, here: bool = True) -> None:
    """Raise ValueError if the model does not fit the images, or this machine's free memory."""
    if isinstance(config.model, ExactModel):
        _check_memory(config, config.model, data, here=here)
        return
    name, image = f"model={config.model.name}", image_shape(config, data)
    model = build_model(config, data)
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"{name} builds {model!r}; build must return an nn.Module")
    if any(isinstance(layer, _DropoutNd) for layer in model.modules()):
        raise ValueError(
            f"{name} has torch's dropout, which a resumed run could not repeat; use Dropout from "
            "randlabels.model.dropout"
        )
    with torch.no_grad():
        logits = model.eval()(torch.zeros(2, *image))
    given = tuple(logits.shape) if torch.is_tensor(logits) else f"a {type(logits).__name__}"
    if given != (2, data.classes):
        raise ValueError(
            f"{name} returns {given} for 2 images of shape {image}; it must return "
            f"(2, {data.classes}), a logit for each class"
        )


def _check_memory(config: Config, model: ExactModel, data: Data, *, here: bool) -> None:
    resources = resolve(config if here else replace(config, device="cpu"), None)
    images = data.train.images[config.dataset.indices(data.train.labels, "train")]
    test = len(config.dataset.indices(data.test.labels, "test"))
    cropped = config.preprocess.crop(images)

    def memory(precision: str) -> int:
        return model.check(cropped, test, data.classes, SolveOptions(dtype_of(precision)))

    needed = memory(resources.precision)
    if here and needed > (free := free_memory(resources.device)):
        smaller = resources.precision == "fp64" and memory("fp32") <= free
        remedy = "precision=fp32, which fits" if smaller else "dataset.train_size= for fewer images"
        raise ValueError(
            f"model={model.name} on {len(images):,} images in {resources.precision} needs "
            f"{needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are free; use "
            f"{remedy}, or a machine with more memory"
        )
