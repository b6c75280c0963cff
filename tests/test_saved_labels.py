"""What `python -m randlabels.corruption --save` writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from randlabels.config import Config, parse
from randlabels.corruption import __main__ as command
from randlabels.experiment import corrupt_labels, load

from .conftest import TINY, CallMain, Cli, untimed_lines

Save = Callable[..., None]


@pytest.fixture
def save(folder: Path, call_main: CallMain) -> Save:
    """`python -m randlabels.corruption ARGUMENTS dataset=digits` in an empty folder."""

    def call(*arguments: str) -> None:
        call_main(command.main, *arguments, "dataset=digits")

    return call


def config_of(**corruption: object) -> Config:
    return parse({"dataset": {"name": "digits"}, "corruption": corruption, "corrupt": 1.0})


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["npz", "csv"])
def test_run_on_saved_labels_has_the_records_of_the_run_that_drew_them(
    ending: str, save: Save, cli: Cli, tmp_path: Path
) -> None:
    save("uniform", "-p", "0.5", "corruption.seed=3", "--save", f"labels.{ending}")
    drawn = ["corrupt=0.5", "corruption.seed=3", "name=drawn"]
    saved = ["corruption=file", f"corruption.path=labels.{ending}", "corrupt=1.0", "name=saved"]
    for keys in (drawn, saved):
        assert cli(*TINY, *keys).code == 0
    first, second = sorted(file.parent for file in tmp_path.glob("runs/*/*/metrics.jsonl"))
    assert untimed_lines(first) == untimed_lines(second)
    labels = [json.loads((run / "corruption.json").read_text()) for run in (first, second)]
    for key in ("sha256", "train_sha256", "test_sha256", "share_changed"):
        assert labels[0][key] == labels[1][key]


def test_saved_files_hold_both_splits_in_the_order_of_the_data_set(
    save: Save, tmp_path: Path
) -> None:
    for file in ("labels.npz", "labels.csv"):
        save("pair_flip", "-p", "0.3", "dataset.train_size=10", "--save", file)
    config = config_of(name="pair_flip")
    data = load(config.dataset)
    config.corrupt = 0.3
    lines = ["split,index,true,label"]
    with np.load(tmp_path / "labels.npz", allow_pickle=False) as found:
        assert list(found) == ["train", "train_true", "test", "test_true"]
        for name, split in (("train", data.train), ("test", data.test)):
            given, true = corrupt_labels(config, data, name).tolist(), split.labels.tolist()
            assert found[name].dtype == np.int64 and found[name].tolist() == given
            assert found[f"{name}_true"].tolist() == true
            pairs = enumerate(zip(true, given, strict=True))
            lines += [f"{name},{i},{was},{became}" for i, (was, became) in pairs]
    assert (tmp_path / "labels.csv").read_text().splitlines() == lines


def test_existing_file_is_kept_unless_its_content_is_the_same(save: Save, tmp_path: Path) -> None:
    file = tmp_path / "labels.npz"
    save("uniform", "-p", "0.5", "--save", file.name)
    before = file.read_bytes()
    save("uniform", "-p", "0.5", "--save", file.name)
    with pytest.raises(SystemExit, match="^Error: --save labels.npz must be a new file, and exis"):
        save("uniform", "-p", "0.4", "--save", file.name)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["labels.npz"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["uniform", "--save", "y.pt"], "--save y.pt must end in .npz or .csv; rename it"),
        (["uniform", "--save", "no/y.csv"], "--save no/y.csv must be in an existing folder; crea"),
        (["random_pixels", "--save", "y.csv"], "--save y.csv must be left out for corruption=ran"),
    ],
)
def test_labels_that_cannot_be_saved_are_refused(
    arguments: list[str], sentence: str, save: Save, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=f"^Error: {sentence}"):
        save(*arguments, "-p", "0.5")
    assert list(tmp_path.iterdir()) == []
