"""From a config to the tensors of one run: data, corrupted labels or images, model."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .config import Config
from .corruption import Corruption, Source
from .corruption.base import describe_misfit
from .corruption.pixels import PixelCorruption
from .dataset import Data, Dataset, Split
from .preprocess import Moments
from .randomness import derive_seed, generator


@dataclass(frozen=True)
class Experiment:
    """All that a fit needs.

    model: on the CPU, with its initial weights; None for an exact fit.
    moments: channel means and deviations to standardize with, each (C,) float32.
    corruption: the content of corruption.json.
    """

    config: Config
    train: Split
    test: Split
    moments: Moments
    model: nn.Module | None
    corruption: dict[str, Any]
    data_sha256: str


def assemble(config: Config) -> Experiment:
    """Load, corrupt, cut and build; ValueError says in one sentence what does not fit."""
    data = load(config.dataset)
    train = make_split(config, data, "train")
    return Experiment(
        config=config,
        train=train,
        test=make_split(config, data, "test"),
        moments=data.moments,
        model=None if config.exact else build_model(config, data),
        corruption={
            "kind": config.corruption.name,
            "prob": config.corrupt,
            "seed": config.corruption.seed,
            "classes": data.classes,
            "share_changed": train.changed.double().mean().item(),
            **label_checksums(config, data),
        },
        data_sha256=data.sha256,
    )


def build_model(config: Config, data: Data) -> nn.Module:
    """Return the model with the initial weights of `config.seed`, drawn on the CPU."""
    with torch.random.fork_rng(devices=()):  # for layers with torch's default initialisation
        torch.default_generator.manual_seed(derive_seed("init/layers", config.seed))
        rng = generator("init", config.seed)
        return config.model.build(image_shape(config, data), data.classes, rng)


def image_shape(config: Config, data: Data) -> tuple[int, int, int]:
    """Return the shape of one image as the model sees it: channels, height, width."""
    stored = torch.empty(1, *data.image, device="meta")
    channels, height, width = config.preprocess.crop(stored).shape[1:]
    return channels, height, width


def load(dataset: Dataset) -> Data:
    """Return the whole data set; the runs of one process share the last one loaded."""
    seed = 0 if dataset.holdout is None else dataset.subset_seed
    whole = dataclasses.replace(
        dataset, root=str(dataset.folder), train_size=None, test_size=None, subset_seed=seed
    )
    key = repr(whole)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = whole.hold_out(whole.load())
    return _loaded[key]


_loaded: dict[str, Data] = {}


def corrupt_labels(config: Config, data: Data, name: str) -> torch.Tensor:
    """Return the corrupted labels (N,) int64 of the whole split "train" or "test", drawn once.

    ValueError if the corruption refuses the data, or returns no labels.
    """
    corruption = config.corruption
    key = type(corruption), repr(corruption), config.corrupt, config.dataset.name, name
    if key not in data.drawn:
        labels = relabel(corruption, source_of(config, data, name), config.corrupt)
        if len(data.drawn) >= 32:  # 19 MB of CIFAR-10
            data.drawn.clear()
        data.drawn[key] = torch.from_numpy(labels)
    return data.drawn[key]


def relabel(corruption: Corruption, source: Source, corrupt: float) -> np.ndarray:
    """Return the corrupted labels (N,) int64 of a split; ValueError as `corrupt_labels`."""
    labels = np.asarray(corruption.relabel(source, corrupt))
    if misfit := describe_misfit(labels, source):
        raise ValueError(
            f"corruption={corruption.name} returned {misfit} for the {source.split} split; relabel "
            f"must return {len(source.labels)} integers from 0 to {source.classes - 1}"
        )
    return labels.astype(np.int64)


def source_of(config: Config, data: Data, name: str) -> Source:
    """Return the split "train" or "test" as a corruption sees it."""
    split: Split = getattr(data, name)
    images = split.images.numpy()
    images.flags.writeable = False  # the runs of one process share the data
    labels = split.labels.numpy().copy()
    return Source(labels, images, data.classes, config.dataset.name, name, split.files)


def label_checksums(config: Config, data: Data) -> dict[str, str]:
    """Return sha256 of labels as little-endian int64, by the keys of corruption.json."""
    train, test = (corrupt_labels(config, data, name) for name in ("train", "test"))
    indices = config.dataset.indices
    return {
        "sha256": _sha256(train),  # of the whole training set
        "train_sha256": _sha256(train[indices(data.train.labels, "train")]),
        "test_sha256": _sha256(test[indices(data.test.labels, "test")]),
    }


def _sha256(labels: torch.Tensor) -> str:
    return hashlib.sha256(labels.numpy().astype("<i8").tobytes()).hexdigest()


def make_split(config: Config, data: Data, name: str) -> Split:
    """Return the images of the split "train" or "test" that a run uses, corrupted."""
    whole: Split = getattr(data, name)
    labels = corrupt_labels(config, data, name)
    keep = config.dataset.indices(whole.labels, name)
    index = keep if whole.index is None else whole.index[keep]
    # the runs of one process share the images if they use all
    images = whole.images if len(keep) == len(labels) else whole.images[keep]
    split = Split(images, labels[keep], whole.labels[keep], index=index)
    return _alter(config, data, name, keep.numpy(), split) if config.alters_images else split


def _alter(config: Config, data: Data, name: str, keep: np.ndarray, split: Split) -> Split:
    """Return cropped images, some of them altered; `keep` are their positions in the whole split.

    An alteration depends on this position alone, and on no size and no run seed.
    """
    corruption, crop = config.corruption, config.preprocess.crop
    assert isinstance(corruption, PixelCorruption)
    mask = corruption.altered(source_of(config, data, name), config.corrupt)[keep]
    images, train = crop(split.images).numpy(), crop(data.train.images).numpy()
    changed = corruption.alter(images[mask], keep[mask], name, train)
    images = images.astype(changed.dtype)  # a copy
    images[mask] = changed
    altered = torch.from_numpy(mask)
    return dataclasses.replace(split, images=torch.from_numpy(images), altered=altered)
