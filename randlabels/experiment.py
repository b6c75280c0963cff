"""From a config to the tensors of one run: data, corrupted labels, model.

Whatever a run can be refused for is refused here, before its folder exists.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .config import Config
from .data import Data, Dataset
from .preprocess import Moments
from .randomness import generator


@dataclass(frozen=True)
class Examples:
    """The images of one part that a run uses, with both kinds of labels.

    images: (N, C, H, W) uint8.
    labels: (N,) int64 in [0, K), corrupted; the training part is fitted to them.
    true: (N,) int64 in [0, K).
    """

    images: torch.Tensor
    labels: torch.Tensor
    true: torch.Tensor

    @property
    def changed(self) -> torch.Tensor:
        """(N,) bool: the corruption changed the label."""
        return self.labels != self.true

    def to(self, device: str) -> Examples:
        return Examples(self.images.to(device), self.labels.to(device), self.true.to(device))


@dataclass(frozen=True)
class Experiment:
    """All that a fit needs.

    model: on the CPU, with its initial weights.
    moments: channel means and deviations to standardize with, each (C,) float32.
    corruption: the content of corruption.json.
    """

    config: Config
    train: Examples
    test: Examples
    moments: Moments
    model: nn.Module
    corruption: dict[str, Any]
    data_sha256: str


def assemble(config: Config) -> Experiment:
    """Load, corrupt, cut and build. ValueError says in one sentence what does not fit."""
    data = load(config.dataset)
    whole_train = relabel(config, data.train.labels, data.classes)
    train = _cut(config, data, "train", whole_train)
    test = _cut(config, data, "test", relabel(config, data.test.labels, data.classes))
    return Experiment(
        config=config,
        train=train,
        test=test,
        moments=data.moments,
        model=build_model(config, data),
        corruption={
            "kind": config.corruption.name,
            "prob": config.corrupt,
            "seed": config.corruption.seed,
            "classes": data.classes,
            "share_changed": train.changed.double().mean().item(),
            "sha256": _sha256(whole_train),
            "train_sha256": _sha256(train.labels),
            "test_sha256": _sha256(test.labels),
        },
        data_sha256=data.sha256,
    )


def build_model(config: Config, data: Data) -> nn.Module:
    """The model with the initial weights of `config.seed`, drawn on the CPU."""
    return config.model.build(data.image, data.classes, generator("init", config.seed))


def load(dataset: Dataset) -> Data:
    """The whole data set; the runs that one process executes share the last one loaded."""
    whole = dataclasses.replace(
        dataset, root=str(dataset.folder), train_size=None, test_size=None, subset_seed=0
    )
    key = repr(whole)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = whole.load()
    return _loaded[key]


_loaded: dict[str, Data] = {}


def relabel(config: Config, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Corrupted labels (N,) int64 of a whole part, so that no size or run seed changes any.

    Raises:
        ValueError: the corruption returned something else.
    """
    true = labels.numpy().copy()  # the runs of one process share the data
    found = config.corruption.relabel(true, config.corrupt, classes)
    if (
        found.shape != true.shape
        or not np.issubdtype(found.dtype, np.integer)
        or (len(found) and not (0 <= found.min() and found.max() < classes))
    ):
        raise ValueError(
            f"corruption={config.corruption.name} returned {found.dtype} of shape {found.shape}; "
            f"relabel must return {len(true)} integers from 0 to {classes - 1}"
        )
    return torch.from_numpy(found.astype(np.int64))


def _cut(config: Config, data: Data, part: str, labels: torch.Tensor) -> Examples:
    split = getattr(data, part)
    keep = config.dataset.indices(split.labels, part)
    if len(keep) == len(labels):
        return Examples(split.images, labels, split.labels)
    return Examples(split.images[keep], labels[keep], split.labels[keep])


def _sha256(labels: torch.Tensor) -> str:
    return hashlib.sha256(labels.numpy().astype("<i8").tobytes()).hexdigest()
