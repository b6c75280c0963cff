"""Human label noise: what people answered, from the label files of CIFAR-10N and CIFAR-100N."""

from __future__ import annotations

import codecs
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from . import Part
from .base import Mixture, frequencies

_RECONSTRUCT = np.zeros(1).__reduce__()[0]

ALLOWED: list[Any] = [
    (_RECONSTRUCT, "numpy.core.multiarray._reconstruct"),  # the name before NumPy 2
    (_RECONSTRUCT, "numpy._core.multiarray._reconstruct"),
    (codecs.encode, "_codecs.encode"),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.int32, np.int64, np.uint8, np.float32, np.float64)),
]
"""All that a label file may name: what rebuilds arrays of numbers."""


@dataclass
class Human(Mixture):
    """Each training label, independently with probability `prob`, becomes the file's.

    At prob = 1 the labels are those of the file. Nobody relabelled the test images: their
    labels stay true, and the noisy test metrics equal the true ones. Transition matrix:
    (1 - prob)·I + prob·Q, where Q is measured on the file. The levels are nested.

    Source: Wei et al. 2022 (CIFAR-10_human.pt, CIFAR-100_human.pt in UCSC-REAL/cifar-10-100n,
    in torchvision's order). Shares changed on CIFAR-10: aggre_label 9.01 %, random_label1
    17.23 %, random_label2 18.12 %, random_label3 17.64 %, worse_label 40.21 %; on CIFAR-100:
    noisy_label 40.20 %.

    path: the published file, which the user has.
    which: its column; worse_label, aggre_label, random_label1, random_label2 or random_label3
        of CIFAR-10N, noisy_label of CIFAR-100N.
    """

    name: ClassVar[str] = "human"

    path: str | None = None
    which: str = "worse_label"

    def targets(self, part: Part) -> np.ndarray:
        return self._labels(part) if part.name == "train" else part.labels.copy()

    def target_matrix(self, part: Part) -> np.ndarray:
        return frequencies(part.labels, self.targets(part), part.classes)

    def _labels(self, part: Part) -> np.ndarray:
        """(N,) int64: the file's column, once its clean labels are found to be the data set's."""
        if not self.path:
            raise ValueError(
                "corruption=human needs the label file of CIFAR-10N or CIFAR-100N; "
                "set corruption.path to it"
            )
        columns = read_labels(Path(self.path).expanduser())
        if not np.array_equal(columns.get("clean_label", ()), part.labels):
            raise ValueError(
                f"corruption.path={self.path} has other clean labels than {part.dataset}; use the "
                "dataset that the file was made for"
            )
        known = [key for key in columns if "clean" not in key and "coarse" not in key]
        if self.which not in known:
            raise ValueError(
                f"corruption.which={self.which} is no column of {self.path}; use {', '.join(known)}"
            )
        found = columns[self.which]
        if found.shape != part.labels.shape or not np.isin(found, np.arange(part.classes)).all():
            raise ValueError(
                f"corruption.which={self.which} of {self.path} holds no {len(part.labels):,} "
                f"labels from 0 to {part.classes - 1}; get the published file"
            )
        return found.astype(np.int64)


def read_labels(file: Path) -> dict[str, np.ndarray]:
    """The columns of a published label file, by name.

    The file is a torch pickle of a dictionary of arrays. It is read with an allow-list, so that
    nothing in it is executed.

    Raises:
        ValueError: the file cannot be read, or names anything but arrays.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED):
            columns = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(
            f"corruption.path={file} cannot be read ({error.strerror}); set it to the label file"
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError) as error:
        raise ValueError(
            f"corruption.path={file} is no label file that is safe to read; get the published one"
        ) from error
    if not isinstance(columns, dict):
        raise ValueError(
            f"corruption.path={file} holds no columns of labels; get the published one"
        )
    return {str(key): np.asarray(column) for key, column in columns.items()}
