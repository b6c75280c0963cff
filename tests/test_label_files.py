"""Labels of a file: which published files are read, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from randlabels.config import Config, parse
from randlabels.corruption.label_file import LabelFile, encode_labels
from randlabels.experiment import corrupt_labels, load

from .conftest import TINY, Cli
from .sources import balanced, make_source

TRUE = balanced(100)
GIVEN = (3 * TRUE + 1) % 10
"""Labels of a training split, and those that a file gives."""


def config_of(**corruption: object) -> Config:
    return parse({"dataset": {"name": "digits"}, "corruption": corruption, "corrupt": 1.0})


def read_labels(file: Path, split: str = "train", **keys: str) -> np.ndarray:
    source = make_source(TRUE if split == "train" else TRUE[:30], split=split)
    return LabelFile(path=str(file), **keys).relabel(source, 1.0)


def csv_bytes(*lines: object, header: str = "") -> bytes:
    return "\n".join([*([header] if header else []), *map(str, lines)]).encode()


ROWS = [f"{i},{label}" for i, label in enumerate(GIVEN)]


@pytest.mark.parametrize(
    "content",
    [
        csv_bytes(*ROWS),
        csv_bytes(*reversed(ROWS)),
        csv_bytes(*ROWS, header="index,label"),
        csv_bytes(*ROWS, header="\ufeffIndex, Label").replace(b"\n", b"\r\n"),
        csv_bytes(*(f"{row},0.5" for row in ROWS), header="index,label,confidence"),
        csv_bytes(*(f"train,{row}" for row in ROWS), header="split,index,label"),
    ],
    ids=["plain", "shuffled", "header", "windows", "more columns", "split"],
)
def test_csv_of_index_and_label_is_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "y.csv").write_bytes(content)
    np.testing.assert_array_equal(read_labels(tmp_path / "y.csv"), GIVEN)
    np.testing.assert_array_equal(read_labels(tmp_path / "y.csv", "test"), TRUE[:30])


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_arrays_of_whole_numbers_are_read(kind: type, tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", GIVEN.astype(kind))
    np.savez(tmp_path / "y.npz", train=GIVEN.astype(kind), test=GIVEN[:30])
    torch.save(torch.from_numpy(GIVEN.astype(kind)), tmp_path / "y.pt")
    columns = {"clean_label": TRUE, "worse_label": GIVEN.astype(kind), "aggre_label": TRUE}
    torch.save(columns, tmp_path / "human.pt")
    for name, keys in {
        "y.npy": {},
        "y.npz": {},
        "y.pt": {},
        "human.pt": {"which": "worse_label"},
    }.items():
        given = read_labels(tmp_path / name, **keys)
        assert given.dtype == np.int64
        np.testing.assert_array_equal(given, GIVEN)
    np.testing.assert_array_equal(read_labels(tmp_path / "y.npz", "test"), GIVEN[:30])
    np.testing.assert_array_equal(read_labels(tmp_path / "y.npy", "test"), TRUE[:30])


@pytest.mark.parametrize("ending", [".npz", ".csv"])
def test_corrupt_is_the_share_of_labels_that_become_the_files(ending: str, tmp_path: Path) -> None:
    arrays = {"train": GIVEN, "train_true": TRUE, "test": GIVEN[:30], "test_true": TRUE[:30]}
    file = tmp_path / f"y{ending}"
    file.write_bytes(encode_labels(ending, arrays))
    for split, size in (("train", 100), ("test", 30)):
        source = make_source(TRUE[:size], split=split)
        kind = LabelFile(path=str(file), seed=5)
        mask = np.random.RandomState(5).rand(size) <= 0.4
        np.testing.assert_array_equal(
            kind.relabel(source, 0.4), np.where(mask, GIVEN[:size], TRUE[:size])
        )
        moved = np.zeros((10, 10))
        moved[TRUE[:10], GIVEN[:10]] = 1
        np.testing.assert_allclose(kind.transition(source, 0.4), 0.6 * np.eye(10) + 0.4 * moved)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An image folder of 2 classes, whose file names repeat across classes and splits."""
    for split, count in (("train", 3), ("test", 1)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (4, 4), i).save(tmp_path / split / name / f"{i},{i} x.png")
    return tmp_path


def labels_by_path(photos: Path, file: Path, split: str, **keys: object) -> dict[str, int]:
    """Return the corrupted labels of a split by the paths of the images."""
    dataset = {"name": "image_folder", "root": str(photos), "size": 4, **keys}
    corruption = {"name": "file", "path": str(file)}
    config = parse({"dataset": dataset, "corruption": corruption, "corrupt": 1.0})
    data = load(config.dataset)
    paths = getattr(data, split).files
    return dict(zip(paths, corrupt_labels(config, data, split).tolist(), strict=True))


LISTED = {f"train/{name}/{i},{i} x.png": i % 2 for name in ("cat", "dog") for i in range(3)}


@pytest.mark.parametrize("start", ["images/train/", "./train/", ""])
def test_list_of_paths_and_labels_is_matched_to_the_images(start: str, photos: Path) -> None:
    """Clothing1M lists the images of all splits; names may have commas and spaces."""
    listed = {path.replace("train/", start): label for path, label in LISTED.items()}
    other = {"images/unused/0.png": 13}
    file = photos / "list.txt"
    file.write_text("".join(f"{path} {y}\n" for path, y in sorted((listed | other).items())[::-1]))
    assert labels_by_path(photos, file, "train") == LISTED
    true = {"test/cat/0,0 x.png": 0, "test/dog/0,0 x.png": 1}
    assert labels_by_path(photos, file, "test") == true
    rest = labels_by_path(photos, file, "train", holdout=2)
    assert len(rest) == 4 and rest.items() <= LISTED.items()


def test_file_names_alone_are_enough_where_they_are_unique(tmp_path: Path) -> None:
    """In WebVision, the images of a query have several classes."""
    names = [f"train/{label}/{i}.jpg" for i, label in enumerate(TRUE)]
    source = make_source(TRUE)
    object.__setattr__(source, "files", tuple(names))
    lines = [f"google/q{i % 7}/{i}.jpg {label}\n" for i, label in enumerate(GIVEN)]
    (tmp_path / "list.txt").write_text("".join(reversed(lines)))
    given = LabelFile(path=str(tmp_path / "list.txt")).relabel(source, 1.0)
    np.testing.assert_array_equal(given, GIVEN)


@pytest.mark.parametrize(
    ("listed", "sentence"),
    [
        ({**LISTED, "x/train/cat/0,0 x.png": 1}, "has 2 lines for image train/cat/0,0 "),
        (dict([*LISTED.items()][1:]), "one line for each of the 6 train images of image_folder, "),
        ({}, "and has 0 lines for image train/cat/0,0 x.png; correct"),
    ],
    ids=["repeated", "missing", "empty"],
)
def test_wrong_lists_of_paths_are_refused(listed: dict, sentence: str, photos: Path) -> None:
    file = photos / "list.txt"
    file.write_text("".join(f"{path} {label}\n" for path, label in listed.items()))
    with pytest.raises(ValueError, match=sentence):
        labels_by_path(photos, file, "train")


def npy_writer(labels: np.ndarray, *, pickled: bool = False) -> Callable[[Path], object]:
    return lambda file: np.save(file, labels, allow_pickle=pickled)


def bytes_writer(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


DIGITS = load(parse({"dataset": {"name": "digits"}}).dataset).train.labels.numpy()
LINES = [f"{i},{label}" for i, label in enumerate(DIGITS)]
OBJECTS = np.array([{}, {}])
WRONG: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "length": (
        "y.npy",
        npy_writer(DIGITS[1:]),
        r"1,442 train labels .* int64 of shape \(1441,\); use ",
    ),
    "two axes": ("y.npy", npy_writer(DIGITS[None]), r"and has int64 of shape \(1, 1442\)"),
    "class": (
        "y.npy",
        npy_writer(DIGITS + 1),
        "from 0 to 9 for digits, and has integers from 1 to 10",
    ),
    "negative": ("y.npy", npy_writer(DIGITS - 1), "and has integers from -1 to 8"),
    "floats": (
        "y.npy",
        npy_writer(DIGITS / 1),
        "must have whole numbers, and has float64; convert",
    ),
    "float in csv": (
        "y.csv",
        bytes_writer(csv_bytes("0,3.0", *LINES[1:])),
        "whole numbers, and has '3.0'",
    ),
    "other": ("y.npz", lambda f: np.savez(f, train=DIGITS, train_true=DIGITS[::-1]), "other true"),
    "no train": ("y.npz", lambda f: np.savez(f, labels=DIGITS), "which=null must be .*use labels"),
    "missing": (
        "y.csv",
        bytes_writer(csv_bytes(*LINES[:5], *LINES[6:])),
        "has 0 lines for image 5",
    ),
    "repeated": ("y.csv", bytes_writer(csv_bytes(*LINES, "7,1")), "has 2 lines for image 7"),
    "beyond": (
        "y.csv",
        bytes_writer(csv_bytes(*LINES, "1442,1")),
        "and has index 1442; correct it, cou",
    ),
    "no index": (
        "y.csv",
        bytes_writer(csv_bytes("3,4", header="id,label")),
        "must have a column index or",
    ),
    "columns": (
        "y.csv",
        bytes_writer(csv_bytes("0,1,2", "1,2,3")),
        "must have 2 values in each line, ind",
    ),
    "huge": (
        "y.csv",
        bytes_writer(b"0," + b"1" * 200_000),
        "comma-separated values; field larger than",
    ),
    "split": ("y.csv", bytes_writer(csv_bytes("val,0,1", header="split,index,label")), "has 'val'"),
    "empty": ("y.csv", bytes_writer(b""), "one line for each of the 1,442 train i"),
    "paths": (
        "y.txt",
        bytes_writer(b"train/cat/1.png 3"),
        "index for digits, whose images have no",
    ),
    "ending": (
        "y.pkl",
        bytes_writer(pickle.dumps([1])),
        "must end in .npz, .npy, .pt, .csv, .txt; conve",
    ),
    "pickle": (
        "y.npy",
        bytes_writer(pickle.dumps([1])),
        "must be a .npy file of arrays only; save the la",
    ),
    "objects": ("y.npy", npy_writer(OBJECTS, pickled=True), "must be a .npy file of arrays only"),
    "archive": ("y.npz", lambda f: np.savez(f, train=OBJECTS), "a .npz file of arrays only"),
    "text": (
        "y.pt",
        bytes_writer(b"0 1 2"),
        "must be a .pt file of arrays only; save the labels again",
    ),
    "nested": ("y.pt", lambda f: torch.save({"train": {"a": 1}}, f), "must have whole numbers"),
}


@pytest.mark.parametrize(("name", "write", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_label_file_is_one_sentence_and_nothing_is_left(
    name: str, write: Callable[[Path], object], sentence: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    config = config_of(name="file", path=str(tmp_path / name))
    with pytest.raises(ValueError, match=sentence) as refused:
        corrupt_labels(config, load(config.dataset), "train")
    assert str(refused.value).startswith("corruption.") and "\n" not in str(refused.value)


def test_run_with_a_wrong_file_ends_before_its_folder_exists(cli: Cli, tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", DIGITS[1:])
    (tmp_path / "T.csv").write_text("1,0\n0,1\n")
    for option, path in {"file": "y.npy", "matrix": "T.csv", "human": "nosuch.pt"}.items():
        refused = cli(*TINY, f"corruption={option}", f"corruption.path={path}", "corrupt=1.0")
        assert refused.code == 1
        assert refused.err.startswith(f"Error: corruption.path={path} ")
        assert refused.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["T.csv", "y.npy"]
