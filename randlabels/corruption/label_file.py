"""Labels from a file: what `--save` wrote, what others publish, the answers of people."""

import codecs
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import Source
from .base import FileMixture, describe_misfit, frequencies

ENDINGS = (".npz", ".npy", ".pt", ".csv", ".txt")

ALLOWED: list[Any] = [  # all that a .pt file may name: what rebuilds arrays of numbers
    (np.zeros(1).__reduce__()[0], "numpy.core.multiarray._reconstruct"),  # before NumPy 2
    (np.zeros(1).__reduce__()[0], "numpy._core.multiarray._reconstruct"),
    (codecs.encode, "_codecs.encode"),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.int32, np.int64, np.uint8, np.float32, np.float64)),
]


@dataclass
class LabelFile(FileMixture):
    """Each label, independently with probability `corrupt`, becomes the file's.

    Test labels that the file lacks stay true. True labels in the file must equal those of the data
    set. In the transition matrix, Q is measured on the file.

    path: the file, whose labels are in the order of the stored data set.
        .npz: arrays train, train_true, test and test_true, of which train is required.
        .npy: an array (N,) of training labels.
        .pt: a torch tensor (N,), or a dictionary of arrays such as CIFAR-10N's.
        .csv: columns index and label, which need no header; with a header also split, true, and
            path in place of index.
        .txt: lines `path label`, the training labels of an image folder.
    which: the column of labels (null: `label` of a table, `train` and `test` of arrays).
    """

    name = "file"

    which: str | None = None

    def targets(self, source: Source, rng: np.random.RandomState) -> np.ndarray:
        return self._labels(source)

    def target_matrix(self, source: Source) -> np.ndarray:
        return frequencies(source.labels, self._labels(source), source.classes)

    def _labels(self, source: Source) -> np.ndarray:
        """Return the file's labels (N,) int64 of a split, or the true ones of a test split."""
        content, key = self.read(), f"corruption.path={self.path}"
        ending = Path(str(self.path)).suffix.lower()
        if ending not in ENDINGS:
            raise ValueError(f"{key} must end in {', '.join(ENDINGS)}; convert the file")
        if ending in (".csv", ".txt"):
            columns = read_table(content, ending, key, source)
        else:
            columns = _of_split(read_arrays(content, ending, key), source.split)
        true = columns.pop("true", None)
        if true is not None and not np.array_equal(_whole_numbers(true, key), source.labels):
            raise ValueError(
                f"{key} has other true labels than {source.dataset}; use the dataset that the "
                "file was made for"
            )
        which = self.which or "label"
        if source.split == "test" and which not in columns:
            return source.labels.copy()
        known = [name for name in columns if "coarse" not in name and name not in ("index", "path")]
        if which not in known:
            raise ValueError(
                f"corruption.which={self.which or 'null'} must be a column of {self.path}; "
                f"use {', '.join(known) or 'a file of labels'}"
            )
        given = _whole_numbers(columns[which], key)
        if misfit := describe_misfit(given, source):
            raise ValueError(
                f"{key} must have {len(source.labels):,} {source.split} labels from 0 to "
                f"{source.classes - 1} for {source.dataset}, and has {misfit}; use the dataset "
                "that the file was made for"
            )
        return given


@dataclass
class Human(LabelFile):
    """Labels that people gave, read as any label file.

    The test images were not relabelled: their labels stay true, and the noisy test metrics equal
    the true ones.

    Source: Wei et al. 2022 (CIFAR-10_human.pt, CIFAR-100_human.pt in UCSC-REAL/cifar-10-100n,
    in torchvision's order). Shares changed on CIFAR-10: aggre_label 9.01 %, random_label1
    17.23 %, random_label2 18.12 %, random_label3 17.64 %, worse_label 40.21 %; on CIFAR-100:
    noisy_label 40.20 %.

    path: the published file.
    which: its column; worse_label, aggre_label, random_label1, random_label2 or random_label3
        of CIFAR-10N, noisy_label of CIFAR-100N.
    """

    name = "human"

    which: str | None = "worse_label"


def _of_split(arrays: dict[str, np.ndarray], split: str) -> dict[str, np.ndarray]:
    """Return the columns of one split, with the names `label` and `true`."""
    if split == "test":
        names = {"test": "label", "test_true": "true"}
        return {names[key]: array for key, array in arrays.items() if key in names}
    names = {"train": "label", "train_true": "true", "clean_label": "true"}
    return {names.get(k, k): v for k, v in arrays.items() if k not in ("test", "test_true")}


def read_arrays(content: bytes, ending: str, key: str) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz, .npy or .pt file by name; a single one is named `train`.

    Nothing in the file is executed: NumPy's files may contain no pickle, and torch's only what
    `ALLOWED` lists. `key` chose the file, and stands in errors.
    """
    try:
        if ending == ".pt":
            with torch.serialization.safe_globals(ALLOWED):
                found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        else:
            found = np.load(io.BytesIO(content), allow_pickle=False)
        columns = dict(found) if isinstance(found, Mapping) else {"train": found}
        return {str(name): np.asarray(column) for name, column in columns.items()}
    except Exception as error:  # pickles and archives fail in many ways on damaged files
        raise ValueError(
            f"{key} must be a {ending} file of arrays only; save the labels again, or get the "
            "published file"
        ) from error


def read_table(content: bytes, ending: str, key: str, source: Source) -> dict[str, np.ndarray]:
    """Return the columns of a .csv or .txt file by name, for one split in its order.

    Each is (N,) of strings. There are none if the file has no row of the split "test".
    """
    lines = content.decode("utf-8-sig", errors="replace").splitlines()
    lines = [line for line in lines if line.strip()]
    if ending == ".txt":
        names, rows = ["path", "label"], [line.rsplit(maxsplit=1) for line in lines]
    else:
        try:
            names, rows = ["index", "label"], list(csv.reader(lines))
        except csv.Error as error:
            raise ValueError(f"{key} must have comma-separated values; {error}") from error
        if rows and not re.fullmatch(r"\s*[-+.\d]+\s*", rows[0][-1]):
            names = [name.strip().lower() for name in rows.pop(0)]
    if any(len(row) != len(names) for row in rows):
        raise ValueError(
            f"{key} must have {len(names)} values in each line, {', '.join(names)}; other columns "
            "need a .csv file with a header"
        )
    table = np.array(rows, dtype=object).reshape(-1, len(names))
    columns = dict(zip(names, table.T, strict=True))
    splits = columns.pop("split", np.full(len(table), "train", dtype=object))
    if unknown := sorted(set(splits) - {"train", "test"}):
        raise ValueError(f"{key} must have train or test as split, and has {unknown[0]!r}; fix it")
    rows_of_split = splits == source.split
    if source.split == "test" and not rows_of_split.any():
        return {}
    columns = {name: cells[rows_of_split] for name, cells in columns.items()}
    images: Sequence[object] = range(len(source.labels))
    if "path" in columns:
        images, index = source.files or (), _find_images(columns["path"], key, source)
        columns = {name: cells[index >= 0] for name, cells in columns.items()}
        index = index[index >= 0]
    elif "index" in columns:
        index = _whole_numbers(columns["index"], key)
    else:
        raise ValueError(f"{key} must have a column index or path; its columns are {names}")
    inside = (index >= 0) & (index < len(images))
    counts = np.bincount(index[inside], minlength=len(images))
    wrong = [f"index {i}" for i in index[~inside]]
    wrong += [f"{n} lines for image {i}" for i, n in zip(images, counts, strict=True) if n != 1]
    if wrong:
        raise ValueError(
            f"{key} must have one line for each of the {len(images):,} {source.split} images of "
            f"{source.dataset}, and has {wrong[0]}; correct it, counting from 0"
        )
    order = np.argsort(index)
    return {name: cells[order] for name, cells in columns.items()}


def _find_images(paths: np.ndarray, key: str, source: Source) -> np.ndarray:
    """Return the position of each path's image in a split, or -1 if it has none.

    Paths are compared by split, class and file, or else by class and file, or by file: by the
    first of these that finds all images.
    """
    if source.files is None:
        raise ValueError(
            f"{key} must have a column index for {source.dataset}, whose images have no paths; "
            "paths are for dataset=image_folder"
        )
    for depth in (3, 2, 1):
        position = {_end(file, depth): i for i, file in enumerate(source.files)}
        found = np.array([position.get(_end(path, depth), -1) for path in paths], int)
        if len(np.unique(found[found >= 0])) == len(source.files):
            break
    return found


def _end(path: str, depth: int) -> str:
    return "/".join(path.split("/")[-depth:])


def _whole_numbers(values: np.ndarray, key: str) -> np.ndarray:
    if values.dtype == object:
        wrong = [repr(v) for v in values.flat if not re.fullmatch(r"\s*-?\d{1,18}\s*", str(v))]
    else:
        wrong = [] if np.issubdtype(values.dtype, np.integer) else [str(values.dtype)]
    if wrong:
        raise ValueError(f"{key} must have whole numbers, and has {wrong[0]}; convert them")
    return values.astype(np.int64)


def encode_labels(ending: str, arrays: Mapping[str, Any]) -> bytes:
    """Return the content of a .npz or .csv file that `LabelFile` reads.

    arrays: train, train_true, test and test_true, each (N,) int64.
    """
    buffer = io.BytesIO()
    if ending == ".npz":
        np.savez(buffer, **arrays)
        return buffer.getvalue()
    lines = ["split,index,true,label"]
    for split in ("train", "test"):
        pairs = zip(arrays[f"{split}_true"], arrays[split], strict=True)
        lines += [f"{split},{i},{true},{given}" for i, (true, given) in enumerate(pairs)]
    return "".join(f"{line}\n" for line in lines).encode()
