"""A tree of image files, train/<class>/* and test/<class>/*, as a data set."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from . import Data, Dataset, Split

IGNORED = ("thumbs.db", "desktop.ini")  # which Windows adds to folders of images


@dataclass
class ImageFolder(Dataset):
    """Images of any format that Pillow reads, in one folder per class.

    Classes are the sorted folder names under `train`. Hidden files are ignored. With `holdout`,
    `test` is not read. Images become what a viewer shows: turned as their EXIF orientation says,
    transparent pixels over white, 16 bits scaled to 8. They are resized to `size` x `size`
    pixels, bilinearly with antialiasing, without keeping the aspect ratio.

    channels: 3 for colour (RGB), 1 for grey.
    """

    name = "image_folder"
    rules = {
        "size": (lambda pixels: pixels >= 1, "at least 1 pixel"),
        "channels": ((1, 3).__contains__, "1 (grey) or 3 (colour)"),
    }

    size: int = 32
    channels: int = 3

    def load(self) -> Data:
        classes = _folders(self.folder / "train")
        of_test = [] if self.holdout else _folders(self.folder / "test")
        if unknown := sorted(set(of_test) - set(classes)):
            raise ValueError(
                f"{self.folder / 'test'} has class {unknown[0]!r}, which train lacks; "
                "add it to train or remove it from test"
            )
        train = self._split("train", classes)
        empty = Split(train.images[:0], train.labels[:0])
        return Data(train, empty if self.holdout else self._split("test", classes), len(classes))

    def _split(self, name: str, classes: list[str]) -> Split:
        folders = [self.folder / name / class_name for class_name in classes]
        by_class = [_image_files(folder) if folder.is_dir() else [] for folder in folders]
        files = [file for of_class in by_class for file in of_class]
        labels = [label for label, of_class in enumerate(by_class) for _ in of_class]
        images = np.stack([self._read_image(file) for file in files])
        paths = tuple(file.relative_to(self.folder).as_posix() for file in files)
        return Split(torch.from_numpy(images), torch.tensor(labels), files=paths)

    def _read_image(self, file: Path) -> np.ndarray:
        try:
            with Image.open(file) as image:
                shown = _as_shown(image).convert("RGB" if self.channels == 3 else "L")
            small = shown.resize((self.size, self.size), Image.Resampling.BILINEAR)
        except Exception as error:  # each of Pillow's decoders fails in its way on damaged files
            raise ValueError(f"{file} cannot be decoded ({error}); repair or remove it") from error
        pixels = np.asarray(small).reshape(self.size, self.size, self.channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _as_shown(image: Image.Image) -> Image.Image:
    """Return an image as a viewer shows it: turned upright, over white, with 8 bits per channel."""
    if image.mode in ("I", "F"):
        raise ValueError(f"its mode {image.mode} has no range of values; save it with 8 or 16 bits")
    image = ImageOps.exif_transpose(image)
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16"):  # `convert` would clip it to 255
        levels = np.asarray(image)
        levels = np.where(levels == transparent, 65535, levels)
        return Image.fromarray((levels // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _image_files(folder: Path) -> list[Path]:
    visible = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    files = [path for path in visible if path.name.lower() not in IGNORED]
    if not files:
        raise ValueError(f"{folder} has no image; add some or remove the folder")
    if folders := [path for path in files if path.is_dir()]:
        raise ValueError(
            f"{folders[0]} must not be a folder in the folder of a class; move its images up, or "
            "remove it"
        )
    return files


def _folders(parent: Path) -> list[str]:
    root = parent.parent
    if not parent.is_dir():
        found = ", ".join(_visible(root)) if root.is_dir() else ""
        raise ValueError(
            f"{root} must be a folder with train/<class>/* and test/<class>/*, and has "
            f"{found or 'no folder'}; set dataset.root, or RANDLABELS_DATA, to it; without a test "
            "folder, dataset.holdout=N tests on N of the training images"
        )
    if not (names := _visible(parent)):
        raise ValueError(f"{parent} has no class folder; put the images of each class into one")
    return names


def _visible(parent: Path) -> list[str]:
    return sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
