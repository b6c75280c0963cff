"""The paper's preprocessing and the random augmentations, against plain NumPy and geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from randlabels import fit
from randlabels.augment import CropFlip, FlipRotate, RandomCrop, Unchanged, random_flips, rotate
from randlabels.config import parse
from randlabels.dataset import Data
from randlabels.experiment import Experiment, assemble
from randlabels.machine.resources import Resources
from randlabels.preprocess import Moments, Paper, Standardize
from randlabels.randomness import generator

from .conftest import CPU, untimed

NONE: Moments = (torch.zeros(3), torch.ones(3))
RANDOM = [CropFlip(), RandomCrop(), FlipRotate()]


def random_images(n: int = 16, side: int = 32, seed: int = 0) -> torch.Tensor:
    pixels = np.random.RandomState(seed).randint(1, 256, (n, 3, side, side))
    return torch.tensor(pixels, dtype=torch.float32)


# The paper's preprocessing


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    height=st.integers(28, 40),
    width=st.integers(28, 40),
    channels=st.sampled_from([1, 3]),
)
def test_whitening_equals_numpys_in_float64(
    seed: int, height: int, width: int, channels: int
) -> None:
    rng = np.random.RandomState(seed)
    pixels = rng.randint(0, 256, (4, channels, height, width))
    pixels[0] = 77  # no deviation
    pixels[1] = 77
    pixels[1, 0, 14, 14] = 78  # one smaller than 1/sqrt(N)
    top, left = (height - 28) // 2, (width - 28) // 2
    x = pixels[:, :, top : top + 28, left : left + 28] / 255
    expected = np.empty_like(x)
    for n, image in enumerate(x):
        values = image.ravel()
        deviation = math.sqrt(((values - values.mean()) ** 2).mean())
        expected[n] = (image - values.mean()) / max(deviation, 1 / math.sqrt(channels * 28 * 28))
    stored = torch.tensor(pixels, dtype=torch.float32)
    before = stored.clone()
    found = Paper()(Paper().crop(stored), NONE)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert torch.equal(stored, before)


def test_images_of_28_stay_whole_and_smaller_ones_are_refused() -> None:
    whole = random_images(side=28)
    assert torch.equal(Paper().crop(whole), whole)
    with pytest.raises(ValueError, match="28x28 pixels and the images have 8x8; use preprocess="):
        assemble(parse({"dataset": {"name": "digits"}, "preprocess": {"name": "paper"}}))
    assert Standardize().crop(random_images(side=8)).shape == (16, 3, 8, 8)


# Crops, flips and rotations


def test_random_crop_is_a_window_of_the_image_and_every_window_comes() -> None:
    images = random_images(2_000, 32)
    crops = RandomCrop()(images, (28, 28), generator("augment", 0))
    places = set()
    for image, crop in zip(images, crops, strict=True):
        corners = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(image[:, top : top + 28, left : left + 28], crop)
        ]
        assert len(corners) == 1
        places.update(corners)
    assert len(places) == 25


@pytest.mark.parametrize("augment", [CropFlip(), RandomCrop()])
def test_whole_images_are_padded_by_four_black_pixels(augment: CropFlip | RandomCrop) -> None:
    images = random_images(600, 8)
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (4, 4), (4, 4)])
    crops = augment(images, (8, 8), generator("augment", 0)).numpy()
    assert crops.shape == images.shape
    windows = set()
    for image, crop in zip(padded, crops, strict=True):
        found = {
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if np.array_equal(
                image[:, top : top + 8, left : left + 8][..., :: -1 if flip else 1], crop
            )
        }
        assert found
        windows |= found if len(found) == 1 else set()
    assert {flip for _, _, flip in windows} == ({False, True} if augment == CropFlip() else {False})
    assert {top for top, _, _ in windows} == {left for _, left, _ in windows} == set(range(9))


def test_half_of_the_images_are_mirrored() -> None:
    images = random_images(2_000, 4)
    flipped = random_flips(images, generator("augment", 0))
    mirrored = np.array([torch.equal(a.flip(2), b) for a, b in zip(images, flipped, strict=True)])
    same = np.array([torch.equal(a, b) for a, b in zip(images, flipped, strict=True)])
    assert (mirrored ^ same).all() and abs(mirrored.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(2_000)


def plainly_rotated(image: np.ndarray, angle: float) -> np.ndarray:
    """Bilinear rotation counterclockwise about the centre, value by value, in float64."""
    height, width = image.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    found = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            x, y = column - middle_x, middle_y - row  # y points up
            back_x = math.cos(angle) * x + math.sin(angle) * y + middle_x
            back_y = middle_y - (-math.sin(angle) * x + math.cos(angle) * y)
            for r in (math.floor(back_y), math.floor(back_y) + 1):
                for c in (math.floor(back_x), math.floor(back_x) + 1):
                    if 0 <= r < height and 0 <= c < width:
                        weight = (1 - abs(back_y - r)) * (1 - abs(back_x - c))
                        found[row, column] += weight * image[r, c]
    return found


@pytest.mark.parametrize("shape", [(9, 9), (8, 12)])
def test_rotation_equals_a_plain_one_in_float64(shape: tuple[int, int]) -> None:
    image = np.random.RandomState(0).randint(0, 256, shape)
    angles = [0.0, math.radians(25), math.radians(-25), 1.0, math.pi / 2]
    images = torch.tensor(image, dtype=torch.float64).expand(len(angles), 1, *shape)
    turned = rotate(images, torch.tensor(angles, dtype=torch.float64))
    for angle, found in zip(angles, turned, strict=True):
        np.testing.assert_allclose(found[0], plainly_rotated(image, angle), atol=1e-6)
    if shape[0] == shape[1]:
        np.testing.assert_allclose(turned[-1, 0], np.rot90(image), atol=1e-6)


def test_angles_are_uniform_up_to_25_degrees(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("randlabels.augment.rotate", lambda x, angles: seen.append(angles) or x)
    FlipRotate()(random_images(5_000, 2), (2, 2), generator("augment", 0))
    angles = np.degrees(seen[0].numpy())
    assert (
        np.abs(angles).max() <= 25
        and np.abs(np.sort(angles) - np.linspace(-25, 25, 5_000)).max() < 1.5
    )


@pytest.mark.parametrize("augment", RANDOM, ids=lambda a: a.name)
def test_each_image_is_drawn_for_itself_anew_in_each_epoch(augment: CropFlip) -> None:
    same = random_images(1).expand(64, -1, -1, -1)
    size = (28, 28)
    first = augment(same, size, generator("augment", 0, 0))
    assert torch.equal(first, augment(same, size, generator("augment", 0, 0)))
    assert len({image.numpy().tobytes() for image in first}) > 20
    assert not torch.equal(first, augment(same, size, generator("augment", 0, 1)))
    assert not torch.equal(first, augment(same, size, generator("augment", 1, 0)))


def test_angle_out_of_range_is_refused() -> None:
    for degrees in (-1.0, 181.0, math.nan):
        with pytest.raises(ValueError, match=r"^augment.degrees=.* must be between 0 and 180$"):
            FlipRotate(degrees)


# In a fit


def assemble_run(augment: str, preprocess: str = "paper", **keys: object) -> Experiment:
    tree = {"model": {"name": "mlp", "hidden": [4]}, "epochs": 3, "batch_size": 16, **keys}
    chosen = {"augment": {"name": augment}, "preprocess": {"name": preprocess}}
    return assemble(parse({**tree, **chosen}))


@pytest.mark.parametrize("preprocess", ["paper", "standardize"])
@pytest.mark.parametrize("augment", ["crop_flip", "random_crop", "flip_rotate", "none"])
def test_only_training_batches_are_augmented(augment: str, preprocess: str, coloured: Data) -> None:
    found = assemble_run(augment, preprocess)
    normal = found.config.preprocess
    expected = [
        normal(normal.crop(split.images.float()), found.moments)
        for split in (coloured.train, coloured.test)
    ]
    trained, evaluated = [], []
    found.model.register_forward_pre_hook(
        lambda module, inputs: (trained if module.training else evaluated).append(inputs[0].clone())
    )
    list(fit.sgd(found, fit.start(found, CPU), CPU))
    assert torch.equal(torch.cat(evaluated), torch.cat(expected * 3))
    order = torch.randperm(40, generator=generator("order", 0, 0))
    first = torch.cat(trained)[:40]
    assert first.shape == expected[0].shape
    same = (first == expected[0][order]).flatten(1).all(1)
    assert same.all() if augment == "none" else same.double().mean() < 0.5


MLP, WRN = {"name": "mlp", "hidden": [4]}, {"name": "wrn", "depth": 10, "dropout": 0.2}
MODELS = [(MLP, "fp32"), (WRN, "fp32"), (WRN, "bf16")]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "precision"), MODELS, ids=["mlp", "wrn", "wrn-bf16"])
@pytest.mark.parametrize("augment", ["none", *(a.name for a in RANDOM)])
def test_resumed_fit_repeats_the_uninterrupted_one_bit_for_bit(
    augment: str,
    model: dict,
    precision: str,
    coloured: Data,
) -> None:
    resources = Resources("cpu", precision, 1)
    keys = {"model": model, "corrupt": 0.5, "schedule": {"name": "step", "milestones": [2]}}
    whole, begun, fresh = (assemble_run(augment, epochs=4, **keys) for _ in range(3))
    final, state, resumed = (fit.start(each, resources) for each in (whole, begun, fresh))
    list(fit.sgd(whole, final, resources))
    running = fit.sgd(begun, state, resources)
    next(running), next(running)  # the learning rate falls now
    resumed.restore(state.to_dict())
    list(fit.sgd(fresh, resumed, resources))
    assert untimed(resumed.records) == untimed(final.records)
    for key, value in final.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value)


def test_no_augmentation_returns_the_images_themselves() -> None:
    images = random_images(2)
    assert Unchanged()(images, (28, 28), generator("augment", 0)) is images
