"""Corruptions of pixels: what is moved or drawn, for whom, and what a run makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from randlabels import fit
from randlabels.config import parse
from randlabels.corruption.pixels import GaussianPixels, PixelCorruption, RandomPixels
from randlabels.corruption.pixels import ShuffledPixels as Shuffled
from randlabels.dataset import Data
from randlabels.experiment import Experiment, assemble
from randlabels.store import metrics

from .conftest import CPU, TINY, Cli, only_run
from .sources import make_source

KINDS = ["shuffled_pixels", "random_pixels", "gaussian_pixels"]


def random_images(n: int, shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (n, *shape)).astype(np.uint8)


def alter_all(kind: PixelCorruption, pixels: np.ndarray, name: str = "train") -> np.ndarray:
    return kind.alter(pixels, np.arange(len(pixels)), name, pixels)


def test_labels_keep_their_classes() -> None:
    source = make_source(np.arange(10) % 5)
    np.testing.assert_array_equal(RandomPixels().transition(source, 0.5), np.eye(source.classes))


@pytest.mark.parametrize("unit", ["all", "spatial"])
def test_shuffled_pixels_are_one_permutation_of_all_images_of_both_parts(unit: str) -> None:
    """An image that numbers its values tells the permutation; it must explain all others."""
    numbered = np.arange(192, dtype=np.uint8).reshape(1, 3, 8, 8)
    pixels = np.concatenate([numbered, random_images(5)])
    shuffled = alter_all(Shuffled(unit=unit), pixels)
    moved = shuffled[0].ravel().astype(int)
    assert sorted(moved) == list(range(192)) and (moved != np.arange(192)).mean() > 0.9
    for before, after in zip(pixels, shuffled, strict=True):
        np.testing.assert_array_equal(after.ravel(), before.ravel()[moved])
    np.testing.assert_array_equal(alter_all(Shuffled(unit=unit), pixels, "test"), shuffled)
    assert (alter_all(Shuffled(unit=unit, seed=1), pixels) != shuffled).any()
    channels = moved.reshape(3, 64) // 64
    assert (channels == np.arange(3)[:, None]).all() == (unit == "spatial")
    if unit == "spatial":
        places = moved.reshape(3, 64) % 64
        assert (places == places[0]).all()


@pytest.mark.parametrize("unit", ["all", "spatial"])
def test_random_pixels_are_another_permutation_for_each_image(unit: str) -> None:
    pixels = np.repeat(np.arange(192, dtype=np.uint8).reshape(1, 3, 8, 8), 20, axis=0)
    for name in ("train", "test"):
        moved = alter_all(RandomPixels(unit=unit), pixels, name).reshape(20, -1).astype(int)
        assert all(sorted(row) == list(range(192)) for row in moved)
        assert len({tuple(row) for row in moved}) == 20
        channels = moved.reshape(20, 3, 64) // 64
        assert (channels == np.arange(3)[:, None]).all() == (unit == "spatial")
    train, test = (alter_all(RandomPixels(unit=unit), pixels, name) for name in ("train", "test"))
    assert (train != test).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("moments", ["channel", "scalar"])
def test_gaussian_pixels_match_the_data_sets_mean_and_variance_unclipped(moments: str) -> None:
    train = (random_images(500) * np.array([1.0, 0.5, 0.25])[:, None, None]).astype(np.uint8)
    noise = alter_all(GaussianPixels(moments=moments), train)
    assert noise.dtype == np.float32 and noise.min() < 0 and noise.max() > 255
    assert (noise != np.rint(noise)).mean() > 0.99
    axes = (0, 2, 3) if moments == "channel" else None
    for drawn in (noise, alter_all(GaussianPixels(moments=moments), train, "test")):
        mean, deviation = train.mean(axes), train.std(axes)
        n = drawn.size / np.size(mean)
        assert (np.abs(drawn.mean(axes) - mean) < 4.5 * deviation / np.sqrt(n)).all()
        assert (np.abs(drawn.std(axes) - deviation) < 4.5 * deviation / np.sqrt(2 * n)).all()
    np.testing.assert_allclose(noise.mean(), train.mean(), rtol=0.02)
    np.testing.assert_allclose(noise.std(), train.std(), rtol=0.02)
    other = alter_all(GaussianPixels(moments=moments), train, "test")
    z, other = ((x - x.mean((0, 2, 3), keepdims=True)).reshape(500, -1) for x in (noise, other))
    for left, right in ((z[::2], z[1::2]), (z[:, ::2], z[:, 1::2]), (z, other)):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 5 / np.sqrt(left.size)


@pytest.mark.parametrize("kind", [Shuffled(), RandomPixels(), GaussianPixels()])
def test_an_image_is_altered_alike_whatever_the_others(kind: PixelCorruption) -> None:
    pixels = random_images(9)
    whole = alter_all(kind, pixels)
    some = np.array([2, 7])
    np.testing.assert_array_equal(kind.alter(pixels[some], some, "train", pixels), whole[some])


def test_corrupt_is_the_share_of_images_and_the_levels_are_nested() -> None:
    train = make_source(np.zeros(50_000), images=np.zeros((50_000, 1, 1, 1), np.uint8))
    before = np.zeros(50_000, dtype=bool)
    for corrupt in (0.0, 0.1, 0.5, 1.0):
        hit = Shuffled().altered(train, corrupt)
        assert abs(hit.mean() - corrupt) <= 4.5 * np.sqrt(corrupt * (1 - corrupt) / 50_000)
        assert not (before & ~hit).any()
        before = hit
    test = make_source(np.zeros(50_000), images=train.images, split="test")
    both = Shuffled().altered(train, 0.5) & Shuffled().altered(test, 0.5)
    assert abs(both.mean() - 0.25) < 0.01  # their own draw


# In a run


def assemble_run(kind: str, **keys: object) -> Experiment:
    tree = {"corruption": {"name": kind}, "corrupt": 0.5, "model": {"name": "mlp", "hidden": [4]}}
    return assemble(parse({**tree, "preprocess": {"name": "paper"}, "epochs": 2, **keys}))


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_altered_after_the_fixed_crop_and_labels_stay(kind: str, coloured: Data) -> None:
    for found, split in (
        (assemble_run(kind).train, coloured.train),
        (assemble_run(kind).test, coloured.test),
    ):
        cropped = split.images[:, :, 2:30, 2:30]
        assert torch.equal(found.labels, split.labels) and torch.equal(found.true, split.labels)
        differs = (found.images != cropped).flatten(1).any(1)
        assert torch.equal(found.changed, differs) and 5 < differs.sum() < 35
        if kind != "gaussian_pixels":  # the same 28·28·3 values, in another order
            before, after = (x.flatten(1).sort(1).values for x in (cropped, found.images))
            assert torch.equal(before, after)
    assert (
        assemble_run(kind).corruption["share_changed"]
        == assemble_run(kind).train.changed.double().mean()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_at_level_0_nothing_is_altered_and_at_1_everything(kind: str, coloured: Data) -> None:
    none, every = (assemble_run(kind, corrupt=corrupt) for corrupt in (0.0, 1.0))
    for part_none, part_every, split in (
        (none.train, every.train, coloured.train),
        (none.test, every.test, coloured.test),
    ):
        cropped = split.images[:, :, 2:30, 2:30]
        assert torch.equal(part_none.images.double(), cropped.double())
        assert not part_none.changed.any() and part_every.changed.all()
        assert (part_every.images != cropped).flatten(1).any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_neither_seed_nor_size_changes_an_image(kind: str, coloured: Data) -> None:
    whole = assemble_run(kind, seed=1)
    cut = assemble_run(
        kind, seed=2, dataset={"name": "cifar10", "train_size": 20, "subset_seed": 3}
    )
    keep = cut.config.dataset.indices(coloured.train.labels, "train")
    assert torch.equal(whole.train.images[keep], cut.train.images)
    assert torch.equal(whole.train.changed[keep], cut.train.changed)
    assert torch.equal(whole.test.images, cut.test.images)


@pytest.mark.parametrize("preprocess", ["paper", "standardize"])
@pytest.mark.parametrize("kind", KINDS)
def test_fit_measures_on_the_altered_images_and_never_changes_them(
    kind: str, preprocess: str, coloured: Data
) -> None:
    stored = coloured.train.images.clone()
    found = assemble_run(kind, preprocess={"name": preprocess})
    before = found.train.images.clone()
    state = fit.start(found, CPU)
    records = list(fit.sgd(found, state, CPU))
    assert torch.equal(found.train.images, before) and torch.equal(coloured.train.images, stored)
    last = records[-1]
    assert last["test_loss_noisy"] is None and last["test_acc_noisy"] is None
    assert last["train_acc_true"] == last["train_acc"]

    config = found.config
    state.model.eval()
    for examples, key in ((found.train, "train_acc"), (found.test, "test_acc")):
        pixels = examples.images.float()
        with torch.inference_mode():
            logits = state.model(config.preprocess(config.preprocess.crop(pixels), found.moments))
        fits = (logits.argmax(1) == examples.true).double()
        assert last[key] == pytest.approx(fits.mean().item())
        if key == "train_acc":
            parts = fits[~examples.changed].mean().item(), fits[examples.changed].mean().item()
            assert (last["train_acc_clean"], last["train_acc_corrupted"]) == pytest.approx(parts)


@pytest.mark.parametrize("kind", KINDS)
def test_random_augmentation_is_refused_before_any_data_is_loaded(kind: str) -> None:
    for augment in ("crop_flip", "random_crop", "flip_rotate"):
        with pytest.raises(ValueError, match=rf"^corruption={kind} fixes .* augment={augment} wo"):
            parse({"corruption": {"name": kind}, "augment": {"name": augment}})


def test_run_and_tables_do_without_noisy_labels(cli: Cli, tmp_path: Path) -> None:
    from analysis import collect

    done = cli(*TINY, "corruption=gaussian_pixels", "corrupt=0.5")
    assert done.code == 0 and "Acc-noisy" not in done.out and "001: Acc-tr:" in done.out
    folder = only_run(tmp_path)
    records, _ = metrics.read(folder / "metrics.jsonl")
    assert {record["test_acc_noisy"] for record in records} == {None}
    written = json.loads((folder / "corruption.json").read_text())
    assert written["kind"] == "gaussian_pixels" and 0.3 < written["share_changed"] < 0.7
    true = assemble(parse({"dataset": {"name": "digits"}, "model": {"name": "mlp"}}))
    for key in ("sha256", "test_sha256", "classes", "seed"):
        assert written[key] == true.corruption[key]
    _, tables = collect.collect(tmp_path / "runs", None, None)
    assert tables["test_error"]["corruption"].tolist() == ["gaussian_pixels"]
