"""Human label noise: the answers of people in the label files of CIFAR-10N and CIFAR-100N."""

from __future__ import annotations

import codecs
import io
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from . import Source
from .base import FileMixture, frequencies

_RECONSTRUCT = np.zeros(1).__reduce__()[0]

ALLOWED: list[Any] = [
    (_RECONSTRUCT, "numpy.core.multiarray._reconstruct"),  # the name before NumPy 2
    (_RECONSTRUCT, "numpy._core.multiarray._reconstruct"),
    (codecs.encode, "_codecs.encode"),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.int32, np.int64, np.uint8, np.float32, np.float64)),
]
"""The only names that a label file may contain: those that rebuild arrays of numbers."""


@dataclass
class Human(FileMixture):
    """Each training label, independently with probability `corrupt`, becomes the file's.

    At corrupt = 1 the labels are those of the file. The test images were not relabelled: their
    labels stay true, and the noisy test metrics equal the true ones. Transition matrix:
    (1 - corrupt)·I + corrupt·Q, where Q is measured on the file. The levels are nested.

    Source: Wei et al. 2022 (CIFAR-10_human.pt, CIFAR-100_human.pt in UCSC-REAL/cifar-10-100n,
    in torchvision's order). Shares changed on CIFAR-10: aggre_label 9.01 %, random_label1
    17.23 %, random_label2 18.12 %, random_label3 17.64 %, worse_label 40.21 %; on CIFAR-100:
    noisy_label 40.20 %.

    path: the published file.
    which: its column; worse_label, aggre_label, random_label1, random_label2 or random_label3
        of CIFAR-10N, noisy_label of CIFAR-100N.
    """

    name: ClassVar[str] = "human"

    which: str = "worse_label"

    def targets(self, source: Source, rng: np.random.RandomState) -> np.ndarray:
        return self._labels(source) if source.split == "train" else source.labels.copy()

    def target_matrix(self, source: Source) -> np.ndarray:
        given = self._labels(source) if source.split == "train" else source.labels
        return frequencies(source.labels, given, source.classes)

    def _labels(self, source: Source) -> np.ndarray:
        """Return the file's column (N,) int64; its clean labels must be the data set's."""
        columns = read_labels(self.read(), f"corruption.path={self.path}")
        if not np.array_equal(columns.get("clean_label", ()), source.labels):
            raise ValueError(
                f"corruption.path={self.path} has other clean labels than {source.dataset}; use "
                "the dataset that the file was made for"
            )
        known = [key for key in columns if "clean" not in key and "coarse" not in key]
        if self.which not in known:
            raise ValueError(
                f"corruption.which={self.which} must be a column of {self.path}; "
                f"use {', '.join(known)}"
            )
        given, classes = columns[self.which], source.classes
        if given.shape != source.labels.shape or not np.isin(given, np.arange(classes)).all():
            raise ValueError(
                f"corruption.which={self.which} of {self.path} must have "
                f"{len(source.labels):,} labels from 0 to {classes - 1}; get the published file"
            )
        return given.astype(np.int64)


def read_labels(content: bytes, key: str) -> dict[str, np.ndarray]:
    """Return the columns of a published label file, by name.

    The file is a torch pickle of a dictionary of arrays. It is read with an allow-list, so that
    nothing in it is executed.

    key: the key and value that chose the file, for errors.

    Raises:
        ValueError: the content contains anything but a dictionary of arrays.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED):
            columns = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError) as e:
        raise ValueError(f"{key} must be a label file of arrays only; get the published one") from e
    if not isinstance(columns, dict):
        raise ValueError(f"{key} must have columns of labels; get the published one")
    return {str(key): np.asarray(column) for key, column in columns.items()}
