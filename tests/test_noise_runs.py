"""Every corruption, preprocessing and augmentation trains two steps on both shapes of image."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from randlabels import fit
from randlabels.config import parse
from randlabels.dataset import Data, Split
from randlabels.experiment import assemble
from randlabels.registry import options

from .conftest import CPU

SHAPES = {"cifar10": (3, 32, 32), "mnist": (1, 28, 28)}
CHOICES = [
    (group, name) for group in ("corruption", "preprocess", "augment") for name in options(group)
]


@pytest.mark.parametrize("dataset", SHAPES)
@pytest.mark.parametrize(("group", "name"), CHOICES, ids=lambda text: text)
def test_option_trains_two_steps(
    group: str, name: str, dataset: str, tmp_path: Path, use_data: Callable[[Data], None]
) -> None:
    rng = np.random.RandomState(0)
    labels = torch.arange(20) % 10
    pixels = torch.from_numpy(rng.randint(0, 256, (20, *SHAPES[dataset])).astype(np.uint8))
    data = Data(Split(pixels, labels), Split(pixels[:10], labels[:10]), classes=10)
    use_data(data)
    answers = {"clean_label": labels.numpy(), "worse_label": labels.numpy()[::-1].copy()}
    torch.save(answers, tmp_path / "human.pt")
    np.save(tmp_path / "file.npy", answers["worse_label"])
    np.savetxt(tmp_path / "matrix.csv", np.full((10, 10), 0.1), delimiter=",")
    files = {path.stem: {"path": str(path)} for path in tmp_path.iterdir()}
    chosen = {"name": name, **files.get(name, {})}
    for preprocess, corrupt in (("paper", 0.0), ("paper", 1.0), ("standardize", 0.5)):
        tree = {"preprocess": {"name": preprocess}, group: chosen, "corrupt": corrupt, "epochs": 1}
        model = {"name": "wrn", "depth": 10}
        built = assemble(
            parse({"dataset": {"name": dataset}, "model": model, "batch_size": 10} | tree)
        )
        (record,) = fit.sgd(built, fit.start(built, CPU), CPU)
        assert len(built.train.labels) == 2 * built.config.batch_size
        assert math.isfinite(record["train_loss"] or math.nan)
