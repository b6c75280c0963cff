"""Label files of human answers: what is read, and that nothing in them is executed."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from randlabels.checks import check
from randlabels.config import Config, parse
from randlabels.corruption import label_file
from randlabels.corruption.label_file import Human
from randlabels.execute import execute
from randlabels.experiment import corrupt_labels, load
from randlabels.store.rundir import RunDir, flat_keys

from .conftest import BASIC, TINY, Cli, Hostile, only_run
from .sources import balanced, make_source


def write_published(file: Path, labels: np.ndarray, **columns: np.ndarray) -> Path:
    """Write a file such as CIFAR-10N's: a torch pickle of a dictionary of int64 arrays."""
    torch.save({"clean_label": labels, **columns}, file)
    return file


def read_labels(file: Path) -> dict[str, np.ndarray]:
    return label_file.read_arrays(file.read_bytes(), ".pt", f"corruption.path={file}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """1,000 labels of ten classes, of which people took every fourth for the next class."""
    labels = balanced(1_000)
    taken = np.where(np.arange(1_000) % 4 == 0, (labels + 1) % 10, labels)
    return write_published(tmp_path / "human.pt", labels, worse_label=taken, aggre_label=labels)


def test_corrupt_is_the_share_of_images_that_take_the_files_label(file: Path) -> None:
    whole = make_source(balanced(1_000))
    kind = Human(path=str(file))
    taken = read_labels(file)["worse_label"]
    np.testing.assert_array_equal(kind.relabel(whole, 1.0), taken)
    np.testing.assert_array_equal(kind.relabel(whole, 0.0), whole.labels)
    mask = np.random.RandomState(12345).rand(1_000) <= 0.3
    expected = np.where(mask, taken, whole.labels)
    np.testing.assert_array_equal(kind.relabel(whole, 0.3), expected)
    clean = Human(path=str(file), which="aggre_label")
    np.testing.assert_array_equal(clean.relabel(whole, 1.0), whole.labels)


def test_matrix_is_measured_on_the_file(file: Path) -> None:
    whole = make_source(balanced(1_000))
    counts = np.zeros((10, 10))
    for true, given in zip(whole.labels, read_labels(file)["worse_label"], strict=True):
        counts[true, given] += 0.01
    stated = Human(path=str(file)).transition(whole, 0.4)
    np.testing.assert_allclose(stated, 0.6 * np.eye(10) + 0.4 * counts)


def test_test_labels_stay_true(file: Path) -> None:
    test = make_source(balanced(100), split="test")
    np.testing.assert_array_equal(Human(path=str(file)).relabel(test, 1.0), test.labels)


def rename_numpy_module(file: Path) -> None:
    """Turn a file into that of NumPy 1, which named its module otherwise; keep the length."""
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"cnumpy._core.", b"cnumpy.core."))


def test_files_of_older_numpys_are_read(file: Path) -> None:
    before = read_labels(file)
    rename_numpy_module(file)
    assert b"numpy.core.multiarray" in file.read_bytes()
    for key, column in read_labels(file).items():
        np.testing.assert_array_equal(column, before[key])


def test_a_hostile_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    torch.save({"clean_label": Hostile(made)}, tmp_path / "hostile.pt")
    with pytest.raises(
        ValueError, match="must be a .pt file of arrays only; .* get the published file"
    ):
        read_labels(tmp_path / "hostile.pt")
    assert not made.exists()
    torch.load(tmp_path / "hostile.pt", weights_only=False)  # it would have been
    assert made.exists()


@pytest.mark.parametrize(
    ("which", "columns", "sentence"),
    [
        (
            "worst",
            {},
            "corruption.which=worst must be a column of .*; use worse_label, aggre_label$",
        ),
        (
            "short",
            {"short": np.zeros(9, int)},
            "must have 1,000 train labels .* of shape .9,.; use",
        ),
        ("wild", {"wild": np.full(1_000, 10)}, "from 0 to 9 .*, and has integers from 10 to 10"),
        ("clean_label", {}, "corruption.which=clean_label must be a column"),
    ],
)
def test_wrong_columns_are_refused(which: str, columns: dict, sentence: str, file: Path) -> None:
    found = {k: v for k, v in read_labels(file).items() if k != "clean_label"}
    write_published(file, balanced(1_000), **found, **columns)
    with pytest.raises(ValueError, match=sentence):
        Human(path=str(file), which=which).relabel(make_source(balanced(1_000)), 1.0)


def test_files_of_other_data_sets_and_other_formats_are_refused(file: Path, tmp_path: Path) -> None:
    for labels in (balanced(999), np.roll(balanced(1_000), 1)):
        with pytest.raises(ValueError, match="has other true labels than cifar10; use the datas"):
            Human(path=str(file)).relabel(make_source(labels), 1.0)
    with pytest.raises(ValueError, match="must be the file of corruption=human; set "):
        Human().relabel(make_source(balanced(10)), 1.0)
    with pytest.raises(ValueError, match="cannot be read .No such file or directory.; set it to"):
        Human(path=str(tmp_path / "nosuch.pt")).pin_files()
    (tmp_path / "text.pt").write_text("0 1 2")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, sentence in {"text.pt": "published file", "list.pt": "worse_label must be"}.items():
        with pytest.raises(ValueError, match=sentence):
            Human(path=str(tmp_path / name)).relabel(make_source(balanced(2)), 1.0)


def config_of(file: Path, **keys: object) -> Config:
    corruption = {"name": "human", "path": str(file)}
    tree = {"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "corruption": corruption}
    return parse({**tree, "corrupt": 1.0, **keys})


@pytest.fixture
def digits() -> np.ndarray:
    """Return the true labels of the embedded digits."""
    return load(parse({"dataset": {"name": "digits"}}).dataset).train.labels.numpy()


def test_a_run_is_fitted_to_the_files_labels(digits: np.ndarray, cli: Cli, tmp_path: Path) -> None:
    write_published(tmp_path / "human.pt", digits, worse_label=(digits + 1) % 10)
    config = config_of(tmp_path / "human.pt")
    labels = corrupt_labels(config, load(config.dataset), "train").numpy()
    np.testing.assert_array_equal(labels, (digits + 1) % 10)
    command = [*TINY, "corruption=human", "corrupt=1.0"]
    assert cli(*command, "corruption.path=human.pt").code == 0
    refused = cli(*command)
    assert refused.code == 1
    assert refused.err.startswith("Error: corruption.path=null must be the file of corruption=h")


def test_content_of_the_label_file_is_identity_and_its_path_is_not(
    digits: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    first = write_published(tmp_path / "a.pt", digits, worse_label=(digits + 1) % 10)
    other = write_published(tmp_path / "b.pt", digits, worse_label=(digits + 2) % 10)
    same = tmp_path / "elsewhere" / "c.pt"
    same.write_bytes(first.read_bytes())
    sha256 = hashlib.sha256(first.read_bytes()).hexdigest()
    assert config_of(first).identity()["corruption"] == {"name": "human", "sha256": sha256}
    assert config_of(first).run_id == config_of(same).run_id != config_of(other).run_id


def test_two_label_files_are_two_runs_of_a_sweep_and_of_its_tables(
    digits: np.ndarray, cli: Cli, tmp_path: Path
) -> None:
    for shift in (1, 2):
        write_published(tmp_path / f"{shift}.pt", digits, worse_label=(digits + shift) % 10)
    sweep = ["-m", *TINY, BASIC, "corruption=human", "corrupt=1.0", "corruption.path=1.pt,2.pt"]
    assert "2 runs in runs/default: 2 done" in cli(*sweep).out
    flat = [flat_keys(yaml.safe_load(f.read_text())) for f in tmp_path.glob("runs/*/*/config.yaml")]
    assert len({keys["corruption.sha256"] for keys in flat}) == 2


def test_file_that_changed_since_its_run_began_is_refused(
    digits: np.ndarray, tmp_path: Path
) -> None:
    """A resumed or requeued job reads config.yaml, which has the checksum."""
    file = write_published(tmp_path / "a.pt", digits, worse_label=(digits + 1) % 10)
    tree = config_of(file).tree()
    assert parse(tree).tree() == tree
    write_published(file, digits, worse_label=(digits + 2) % 10)
    with pytest.raises(ValueError, match=r"^corruption.path=.*a.pt must have the content of corr"):
        parse(tree)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["done", "interrupted"])
@pytest.mark.parametrize("key", ["sha256", "train_sha256", "test_sha256"])
def test_results_of_other_labels_are_refused_by_name(
    key: str, state: str, cli: Cli, tmp_path: Path
) -> None:
    """This happens after a change of a corruption's code."""
    command = [*TINY, "corrupt=0.5"]
    assert cli(*command).code == 0
    run = RunDir(only_run(tmp_path))
    stored = json.loads(run.corruption.read_text())
    run.corruption.write_text(json.dumps({**stored, key: "0" * 64}))
    if state == "interrupted":
        run.done.unlink()
    for launch in ([], ["-m", BASIC], ["-m", "hydra/launcher=packed"]):
        refused = cli(*launch, *command)
        assert refused.code == 1
        assert f"{run.run_id} was computed on other labels ({key} of corrupt" in refused.err
    with pytest.raises(ValueError, match="was computed on other labels"):
        config = parse(yaml.safe_load(run.config.read_text()))
        if state == "done":
            check([config])
        else:
            execute([config])  # as a requeued job does
    assert json.loads(run.corruption.read_text())[key] == "0" * 64
    assert cli(*command, "name=another").code == cli(*command, "force=true").code == 0
