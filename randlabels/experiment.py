"""From a config to the tensors of one run: data, corrupted labels or images, model.

Whatever a run can be refused for is refused here, before its folder exists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from .config import Config
from .corruption import Part
from .corruption.pixels import PixelCorruption
from .dataset import Data, Dataset
from .preprocess import Moments
from .randomness import derive_seed, generator
from .registry import located


@dataclass(frozen=True)
class Examples:
    """The images of one part that a run uses, with both kinds of labels.

    images: (N, C, H, W), pixels in 0..255, uint8 as stored; of a corruption of pixels cropped,
        and float32 if it draws other values.
    labels: (N,) int64 in [0, K), corrupted; the training part is fitted to them.
    true: (N,) int64 in [0, K).
    altered: (N,) bool, the images that a corruption of pixels altered; None for one of labels.
    """

    images: torch.Tensor
    labels: torch.Tensor
    true: torch.Tensor
    altered: torch.Tensor | None = None

    @property
    def changed(self) -> torch.Tensor:
        """(N,) bool: the corruption changed the label, or altered the image."""
        return self.labels != self.true if self.altered is None else self.altered

    def to(self, device: str) -> Examples:
        altered = None if self.altered is None else self.altered.to(device)
        labels, true = self.labels.to(device), self.true.to(device)
        return Examples(self.images.to(device), labels, true, altered)


@dataclass(frozen=True)
class Experiment:
    """All that a fit needs.

    model: on the CPU, with its initial weights; None if it is solved for.
    moments: channel means and deviations to standardize with, each (C,) float32.
    corruption: the content of corruption.json.
    """

    config: Config
    train: Examples
    test: Examples
    moments: Moments
    model: nn.Module | None
    corruption: dict[str, Any]
    data_sha256: str


def assemble(config: Config) -> Experiment:
    """Load, corrupt, cut and build. ValueError says in one sentence what does not fit."""
    data = load(config.dataset)
    whole_train = relabel(config, data, "train")
    train = _cut(config, data, "train", whole_train)
    test = _cut(config, data, "test", relabel(config, data, "test"))
    return Experiment(
        config=config,
        train=train,
        test=test,
        moments=data.moments,
        model=None if config.exact else build_model(config, data),
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
    """The model with the initial weights of `config.seed`, drawn on the CPU.

    Layers that a model leaves to torch's own initialisation follow the seed too.
    """
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(derive_seed("init/layers", config.seed))
        return config.model.build(
            _image(config, data), data.classes, generator("init", config.seed)
        )


def check_network(config: Config, data: Data) -> None:
    """Build the model, and let it see two images.

    Raises:
        ValueError: it refuses them, gives other than logits, or draws what could not be repeated.
    """
    name, image = f"model={config.model.name}", _image(config, data)
    try:
        model = build_model(config, data)
    except (ValueError, OSError):  # a sentence already
        raise
    except Exception as error:
        what = located(error, inspect.getfile(type(config.model)))
        raise ValueError(f"{name} cannot be built: {what}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} builds {model!r}; build must return an nn.Module")
    if any(isinstance(layer, _DropoutNd) for layer in model.modules()):
        raise ValueError(
            f"{name} has torch's own dropout, which no run could repeat; take Dropout from "
            "randlabels.model.dropout"
        )
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, *image))
    except Exception as error:
        what = located(error, inspect.getfile(type(config.model)))
        raise ValueError(f"{name} fails on images of shape {image}: {what}") from error
    made = f"a {type(logits).__name__}"
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else made
    if shape != (2, data.classes):
        raise ValueError(
            f"{name} makes {shape} of 2 images of shape {image}; it must make "
            f"(2, {data.classes}), a logit for each class"
        )


def _image(config: Config, data: Data) -> tuple[int, int, int]:
    """Shape of one image as the model sees it: channels, height, width."""
    stored = torch.empty(1, *data.image, device="meta")
    channels, height, width = config.preprocess.crop(stored).shape[1:]
    return channels, height, width


def load(dataset: Dataset) -> Data:
    """The whole data set; the runs that one process executes share the last one loaded."""
    seed = 0 if dataset.holdout is None else dataset.subset_seed
    whole = dataclasses.replace(
        dataset, root=str(dataset.folder), train_size=None, test_size=None, subset_seed=seed
    )
    key = repr(whole)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = whole.held_out(whole.load())
    return _loaded[key]


_loaded: dict[str, Data] = {}


def part_of(config: Config, data: Data, name: str) -> Part:
    """One part, whole, as the corruption sees it; `name` is "train" or "test"."""
    split = getattr(data, name)
    images = split.images.numpy()
    images.flags.writeable = False  # the runs of one process share the data
    return Part(split.labels.numpy().copy(), images, data.classes, config.dataset.name, name)


def relabel(config: Config, data: Data, name: str) -> torch.Tensor:
    """Corrupted labels (N,) int64 of a whole part, so that no size or run seed changes any.

    Raises:
        ValueError: the corruption failed, or returned something else.
    """
    part = part_of(config, data, name)
    kind = f"corruption={config.corruption.name}"
    try:
        found = np.asarray(config.corruption.relabel(part, config.corrupt))
    except (ValueError, OSError):  # a sentence already
        raise
    except Exception as error:
        what = located(error, inspect.getfile(type(config.corruption)))
        raise ValueError(f"{kind} fails: {what}") from error
    given = f"{found.dtype} of shape {found.shape}"
    good = found.shape == part.labels.shape and np.issubdtype(found.dtype, np.integer)
    if good and len(found):
        lowest, highest = found.min(), found.max()
        good = lowest >= 0 and highest < data.classes
        given = f"integers from {lowest} to {highest}"
    if not good:
        raise ValueError(
            f"{kind} returned {given} for the {name} part; relabel must return "
            f"{len(part.labels)} integers from 0 to {data.classes - 1}"
        )
    return torch.from_numpy(found.astype(np.int64))


def _cut(config: Config, data: Data, name: str, labels: torch.Tensor) -> Examples:
    split = getattr(data, name)
    keep = config.dataset.indices(split.labels, name)
    if len(keep) == len(labels):  # all, which the runs of one process then share
        examples = Examples(split.images, labels, split.labels)
    else:
        examples = Examples(split.images[keep], labels[keep], split.labels[keep])
    return _alter(config, data, name, keep.numpy(), examples) if config.alters_images else examples


def _alter(config: Config, data: Data, name: str, keep: np.ndarray, examples: Examples) -> Examples:
    """Cropped images, some of them altered; `keep` are the examples' positions in the part.

    An image's alteration depends on its position alone, so that no size or run seed changes it.
    """
    corruption, crop = cast(PixelCorruption, config.corruption), config.preprocess.crop
    chosen = corruption.altered(part_of(config, data, name), config.corrupt)[keep]
    images = crop(examples.images).numpy()
    train = crop(data.train.images).numpy()
    found = corruption.alter(images[chosen], keep[chosen], name, train)
    images = images.astype(found.dtype)  # a copy
    images[chosen] = found
    altered = torch.from_numpy(chosen)
    return dataclasses.replace(examples, images=torch.from_numpy(images), altered=altered)


def _sha256(labels: torch.Tensor) -> str:
    return hashlib.sha256(labels.numpy().astype("<i8").tobytes()).hexdigest()
