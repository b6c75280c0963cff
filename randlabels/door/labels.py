"""Corrupted labels outside of a run: of arrays, and of data sets in the style of torchvision."""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch.utils.data import Dataset

from ..corruption import Source
from ..corruption.pixels import PixelCorruption
from ..dataset import Split
from ..dataset.published import stored_images
from ..experiment import relabel
from ..registry import options
from ..schema import parse_dataclass

Labels = Sequence[int] | np.ndarray | torch.Tensor
DataSet = TypeVar("DataSet")


@overload
def corrupt(labels: Labels, kind: str = ..., p: float = ..., **keys: Any) -> np.ndarray: ...


@overload
def corrupt(labels: DataSet, kind: str = ..., p: float = ..., **keys: Any) -> DataSet: ...


def corrupt(
    labels: Any,
    kind: str = "uniform",
    p: float = 0.4,
    *,
    classes: int | None = None,
    seed: int = 12345,
    images: Any = None,
    dataset: str = "",
    **keys: Any,
) -> Any:
    """Return corrupted labels, equal to those that a run with the same keys trains on.

    >>> randlabels.corrupt([0, 1, 2, 0, 1, 2, 0, 1], "uniform", 0.5)
    array([0, 1, 2, 0, 1, 2, 0, 1])
    >>> randlabels.corrupt([0, 1, 2, 0, 1, 2, 0, 1], "pair_flip", 1.0)
    array([1, 2, 0, 1, 2, 0, 1, 2])

    labels: true labels of a whole training set: N integers, or a data set in the style of
        torchvision, which has `targets` or `labels`.
    kind: an option of the config group `corruption` that changes labels.
    p: probability of corruption, 0 to 1; the key `corrupt` of a run.
    classes: number of classes K; default: that of the data set, else the largest label plus 1.
    seed: of all draws; the default is the original code's.
    images: (N, C, H, W) uint8 as stored, which some kinds depend on; default: the data set's.
    dataset: name such as "cifar10", which some kinds depend on; default: the data set's.
    keys: further keys of the kind, such as `nested=True`.

    Returns:
        (N,) int64 in [0, K). For a data set a shallow copy of it with corrupted labels, and with
        the true ones as `true_targets`, (N,) int64. Its DataLoader and Subset work as before.

    Raises:
        ValueError: one sentence with the value, the rule and the remedy.
    """
    known = options("corruption")
    noises = sorted(name for name in known if not issubclass(known[name], PixelCorruption))
    if kind not in noises:
        why = "alters images and leaves their labels" if kind in known else "is unknown"
        raise ValueError(f"kind={kind} {why}; use {', '.join(noises)}")
    if not 0 <= p <= 1:
        raise ValueError(f"p={p} must be between 0 and 1")
    corruption = parse_dataclass(known[kind], {"seed": seed, **keys}, prefix="corruption.")
    corruption.pin_files()
    field = next((name for name in ("targets", "labels") if hasattr(labels, name)), None)
    if field is None:
        if isinstance(labels, Dataset):
            what = f"labels={type(labels).__name__}(…)"
            raise ValueError(f"{what} must have targets or labels; corrupt the whole data set")
        return relabel(corruption, _source(labels, classes, images, kind, dataset, "train"), p)
    if classes is None and hasattr(labels, "classes"):
        classes = len(labels.classes)
    images = stored_images(labels) if images is None else images
    names = {option.__name__: name for name, option in options("dataset").items()}
    parents = [cls.__name__ for cls in type(labels).__mro__]
    dataset = dataset or next((names[name] for name in parents if name in names), parents[0])
    test = getattr(labels, "train", True) is False or getattr(labels, "split", "") == "test"
    split = "test" if test else "train"
    source = _source(getattr(labels, field), classes, images, kind, dataset, split)
    return _relabelled(labels, field, relabel(corruption, source, p))


def _source(
    labels: Any, classes: int | None, images: Any, kind: str, dataset: str, split: str
) -> Source:
    true = np.asarray(labels)
    if true.ndim != 1 or not np.issubdtype(true.dtype, np.integer):
        raise ValueError(
            f"labels must be integers of shape (N,); these are {true.dtype} of shape {true.shape}"
        )
    true = true.astype(np.int64)
    classes = classes or int(true.max(initial=0)) + 1
    stored = np.zeros((len(true), 1, 1, 1), np.uint8) if images is None else np.asarray(images)
    Split(torch.from_numpy(stored.copy()), torch.from_numpy(true)).check(classes)
    shown: Any = _NoImages(kind) if images is None else stored
    return Source(true, shown, classes, dataset, split)


class _NoImages:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"kind={self.kind} needs the images; add images=, (N, C, H, W) uint8")


def _relabelled(dataset: Any, field: str, labels: np.ndarray) -> Any:
    """Return a shallow copy of a data set with `labels` (N,), in the type that `field` has."""
    noisy, stored = copy.copy(dataset), getattr(dataset, field)
    noisy.true_targets = np.asarray(stored).astype(np.int64)
    listed = labels.tolist()
    as_array = torch.tensor if isinstance(stored, torch.Tensor) else np.array
    new = listed if isinstance(stored, list) else as_array(listed, dtype=stored.dtype)
    setattr(noisy, field, new)
    for pairs in ("samples", "imgs"):  # of class folders, which return the labels that stand there
        if hasattr(dataset, pairs):
            paths = [path for path, _ in getattr(dataset, pairs)]
            setattr(noisy, pairs, list(zip(paths, listed, strict=True)))
    return noisy
