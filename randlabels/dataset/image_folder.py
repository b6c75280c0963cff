"""A tree of image files, train/<class>/* and test/<class>/*, as a data set."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from ..store.files import write_atomic
from . import Data, Dataset, Split

CACHE = ".randlabels-cache"
"""Folder under the root that holds decoded images; it may be deleted at any time."""


@dataclass
class ImageFolder(Dataset):
    """Any images Pillow reads, one sub-folder per class, resized to `size` x `size` pixels.

    Classes are the sorted folder names under `train`. Hidden files are passed over. With
    `holdout`, `test` is not looked at.
    `channels`: 3 for colour (RGB), 1 for grey. Resizing is bilinear with antialiasing and does
    not keep the aspect ratio.
    """

    name: ClassVar[str] = "image_folder"

    size: int = 32
    channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"dataset.size={self.size} must be at least 1 pixel")
        if self.channels not in (1, 3):
            raise ValueError(f"dataset.channels={self.channels} must be 1 (grey) or 3 (colour)")

    def load(self) -> Data:
        classes = _folders(self.folder / "train")
        of_test = [] if self.holdout else _folders(self.folder / "test")
        if unknown := sorted(set(of_test) - set(classes)):
            raise ValueError(
                f"{self.folder / 'test'} has class {unknown[0]!r}, which train lacks; "
                "add it to train or remove it from test"
            )
        train = self._split("train", classes)
        if self.holdout:
            return Data(train, Split(train.images[:0], train.labels[:0]), len(classes))
        return Data(train, self._split("test", classes), len(classes))

    def _split(self, part: str, classes: list[str]) -> Split:
        files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            folder = self.folder / part / name
            of_class = sorted(
                p for p in folder.glob("*") if p.is_file() and not p.name.startswith(".")
            )
            if not of_class and (part == "train" or folder.is_dir()):
                raise ValueError(f"{folder} has no image; add some or remove the folder")
            files += of_class
            labels += [label] * len(of_class)
        return Split(self._decode(files), torch.tensor(labels, dtype=torch.int64))

    def _decode(self, files: list[Path]) -> torch.Tensor:
        """Images (N, C, H, W) uint8, from the cache where the same files were decoded before."""
        digest = hashlib.sha256(f"{self.size} {self.channels}".encode())
        for file in files:
            try:
                digest.update(hashlib.sha256(file.read_bytes()).digest())
            except OSError as error:
                raise ValueError(f"{file} cannot be read ({error.strerror})") from error
        cache = self.folder / CACHE / f"{digest.hexdigest()}.npz"
        images = _read_cache(cache)
        if images is None:
            images = np.stack([self._read_image(file) for file in files])
            _write_cache(cache, images)
        return torch.as_tensor(images)

    def _read_image(self, file: Path) -> np.ndarray:
        from PIL import Image

        mode = "RGB" if self.channels == 3 else "L"
        try:
            with Image.open(file) as opened:
                image: Image.Image = opened
                if image.mode.startswith("I"):  # 16 bits, which `convert` would clip to 255
                    image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
                small = image.convert(mode).resize(
                    (self.size, self.size), Image.Resampling.BILINEAR
                )
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{file} is no readable image ({error}); repair or remove it"
            ) from error
        pixels = np.asarray(small).reshape(self.size, self.size, self.channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _folders(parent: Path) -> list[str]:
    if not parent.parent.is_dir():
        raise ValueError(
            f"{parent.parent} is no folder; set dataset.root, or RANDLABELS_DATA, to the one that "
            "has train/<class>/*"
        )
    if not parent.is_dir():
        raise ValueError(
            f"{parent} is no folder, {parent.parent} has "
            f"{', '.join(_visible(parent.parent)) or 'none'}; image_folder reads "
            "<root>/train/<class>/* and <root>/test/<class>/*, so move or rename them; without a "
            "test folder, dataset.holdout=N tests on N of the training images"
        )
    names = _visible(parent)
    if not names:
        raise ValueError(f"{parent} has no class folder; put the images of each class into one")
    return names


def _visible(parent: Path) -> list[str]:
    return sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read_cache(path: Path) -> np.ndarray | None:
    """Decoded images, or None where there are none that are whole (zip checks their CRC)."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return file["images"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def _write_cache(path: Path, images: np.ndarray) -> None:
    """Keep decoded images; where that fails, they are decoded again next time."""
    buffer = io.BytesIO()
    np.savez(buffer, images=images)
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, buffer.getvalue())
