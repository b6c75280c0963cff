"""Image folders: resizing, labels, and what is refused by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from randlabels.dataset.image_folder import ImageFolder
from randlabels.experiment import load


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """train and test trees of 2 classes with images of several sizes, modes and formats."""
    for part, n in (("train", 3), ("test", 2)):
        for label, name in enumerate(["a cat", "dog"]):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                shape = (10 + i, 20, 3) if i else (16, 16)
                pixels = np.full(shape, 100 * label + 10 * i, dtype=np.uint8)
                ending = "png" if i % 2 == 0 else "bmp"
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.{ending}")
    (tmp_path / "train" / "dog" / ".hidden").write_text("not an image")
    return tmp_path


def test_image_folder_is_resized_and_labelled(tree: Path) -> None:
    data = ImageFolder(root=str(tree), size=8).load()
    assert data.train.images.shape == (6, 3, 8, 8) and data.test.images.shape == (4, 3, 8, 8)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 10, 20, 100, 110, 120]


def test_image_folder_resizes_as_pillow_does(tree: Path) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (37, 21, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tree / "train" / "a cat" / "0.png")
    for channels, mode in ((3, "RGB"), (1, "L")):
        data = ImageFolder(root=str(tree), size=8, channels=channels).load()
        image = Image.fromarray(pixels).convert(mode).resize((8, 8), Image.Resampling.BILINEAR)
        expected = np.asarray(image).reshape(8, 8, channels).transpose(2, 0, 1)
        np.testing.assert_array_equal(data.train.images[0], expected)


def test_sixteen_bit_image_is_scaled_not_clipped(tree: Path) -> None:
    levels = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tree / "train" / "a cat" / "0.png")
    data = ImageFolder(root=str(tree), size=2, channels=1).load()
    assert data.train.images[0, 0].tolist() == [[0, 100], [200, 255]]


def read_pixels(file: Path, tree: Path, channels: int = 3, size: int = 2) -> list:
    """Return the pixels (C, H, W) of a file as they are read in the place of the first image."""
    for old in (tree / "train" / "a cat").iterdir():
        old.unlink()
    file.rename(tree / "train" / "a cat" / file.name)
    data = ImageFolder(root=str(tree), size=size, channels=channels).load()
    return data.train.images[0].tolist()


INK = [[0, 255], [255, 0]]
"""A drawing of two black and two white pixels, as a viewer shows it."""


def draw_in_mode(mode: str) -> tuple[Image.Image, dict[str, object]]:
    """Return the drawing in one of Pillow's modes, and what `save` needs for its transparency."""
    ink = np.array(INK, dtype=np.uint8)
    grey = Image.fromarray(ink)
    clear = Image.fromarray(255 - ink)  # opaque where there is ink, and black everywhere
    black = Image.new("L", (2, 2))
    palette = grey.convert("P")
    if mode == "LA":
        return Image.merge("LA", (black, clear)), {}
    if mode == "RGBA":
        return Image.merge("RGBA", (black, black, black, clear)), {}
    if mode == "P, transparent":
        palette.putpalette([0, 0, 0] * 256)
        return palette, {"transparency": 255}
    if mode == "L, transparent":
        return Image.fromarray(np.where(ink == 255, 7, 0).astype(np.uint8)), {"transparency": 7}
    if mode == "I;16":
        return Image.fromarray(ink.astype(np.uint16) * 257), {}
    return (palette if mode == "P" else grey.convert(mode)), {}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "ending"),
    [(mode, "png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    + [("P, transparent", "png"), ("P, transparent", "gif"), ("L, transparent", "png")]
    + [("CMYK", "tif"), ("YCbCr", "tif")],
)
def test_every_mode_is_read_as_a_viewer_shows_it(
    mode: str, ending: str, channels: int, tree: Path
) -> None:
    image, keys = draw_in_mode(mode)
    image.save(tree / f"0.{ending}", **keys)
    assert read_pixels(tree / f"0.{ending}", tree, channels) == [INK] * channels


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_range_of_values_are_refused_by_name(mode: str, tree: Path) -> None:
    Image.fromarray(np.array(INK, dtype=np.uint8)).convert(mode).save(tree / "0.tif")
    with pytest.raises(ValueError, match=f"0.tif cannot be decoded .its mode {mode} has no range"):
        read_pixels(tree / "0.tif", tree)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tree: Path) -> None:
    """The stored pixels are those of the upright image, moved as the EXIF standard says."""
    upright = np.array([[0, 60], [120, 180]], dtype=np.uint8)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright[::-1].T[::-1, ::-1],
        7: upright[::-1, ::-1].T,
        8: upright[:, ::-1].T[::-1, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tree / "0.png", exif=exif)
    assert read_pixels(tree / "0.png", tree, channels=1) == [upright.tolist()]


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"])
def test_files_of_the_system_are_ignored(name: str, tree: Path) -> None:
    before = ImageFolder(root=str(tree), size=8).load()
    (tree / "train" / "dog" / name).write_bytes(b"not an image")
    assert ImageFolder(root=str(tree), size=8).load().sha256 == before.sha256


def test_changed_image_is_decoded_again(tree: Path) -> None:
    ImageFolder(root=str(tree), size=8).load()
    Image.new("RGB", (9, 9), (7, 7, 7)).save(tree / "train" / "dog" / "0.png")
    data = ImageFolder(root=str(tree), size=8).load()
    assert data.train.images[3].unique().tolist() == [7]


def test_images_that_are_not_split_are_tested_on_held_out_ones(tree: Path) -> None:
    shutil.rmtree(tree / "test")
    data = load(ImageFolder(root=str(tree), size=8, holdout=2))
    assert sorted(data.test.labels.tolist()) == [0, 1] and len(data.train.labels) == 4
    pixels = [*data.train.images[:, 0, 0, 0].tolist(), *data.test.images[:, 0, 0, 0].tolist()]
    assert sorted(pixels) == [0, 10, 20, 100, 110, 120]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda t: (t / "train" / "empty").mkdir(), "empty has no image"),
        (lambda t: (t / "test" / "bird").mkdir(), "has class 'bird', which train lacks"),
        (lambda t: (t / "train" / "dog" / "1.bmp").write_bytes(b"BM"), "1.bmp cannot be decoded"),
        (lambda t: (t / "train" / "dog" / "x.png").symlink_to("x"), "x.png cannot be decoded"),
        (lambda t: (t / "train" / "dog" / "more").mkdir(), "more must not be a folder in the fol"),
        (
            lambda t: (t / "train" / "dog" / "1.dds").write_bytes(b"DDS " + bytes(140)),
            "1.dds cannot be decoded",
        ),
        (lambda t: (t / "train" / "dog" / "x.txt").write_text("x"), "x.txt cannot be decoded"),
        (
            lambda t: os.rename(t / "test", t / "tset"),
            "test/<class>/., and has train, tset; .* dataset.holdout=",
        ),
        (
            lambda t: os.rename(t / "train", t / "training"),
            "must be a folder with train/<class>/.* and has test, training; set",
        ),
        (
            lambda t: os.rename(t, t.with_name("other")),
            "^[^ ]* must be a folder with train/<class>.*; set dataset.root",
        ),
    ],
)
def test_spoilt_image_folder_is_refused_by_name(tree: Path, spoil, sentence: str) -> None:
    spoil(tree)
    with pytest.raises(ValueError, match=sentence):
        ImageFolder(root=str(tree)).load()
