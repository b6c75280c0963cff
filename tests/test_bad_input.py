"""Bad input: one sentence, a non-zero exit, no folder; in a sweep before the first run starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from .conftest import TINY, Cli
from .stand_ins import InstallGpus

CASES = {
    "corrupt=1.5": "corrupt=1.5 must be between 0 and 1",
    "corrupt=nan": "corrupt=nan must be between 0 and 1",
    "corrupt=abc": "corrupt=abc has the wrong type; give a number\n",
    "model=vgg": "model=vgg is unknown; use alexnet, inception, ",
    "model.depth=27": "model.depth=27 must be 6n+4 and at least 10; try 22 or 28",
    "epochs=0": "epochs=0 must be at least 1\n",
    "compile=maybe": "compile=maybe must be auto, true or false\n",
    "batch_size=-1": "batch_size=-1 must be at least 1",
    "optimizer.lr=-1": "optimizer.lr=-1.0 must be a positive number, or null for the model's",
    "dataset.train_size=1000000000": "dataset.train_size=1000000000 exceeds the 1,442 train "
    "images of digits; use 1 to 1442, or null for all",
    "device=cuda": "device=cuda needs a GPU that PyTorch can use, and there is none; "
    "use device=cpu or device=auto",
    "nosuch=1": "nosuch is an unknown key; --help lists each option's keys\n",
    "epoch=1": "epoch is an unknown key; did you mean epochs? --help lists each ",
    "lr=1": "lr is an unknown key; did you mean model.lr or optimizer.lr? --help ",
    "model.hiden=1": "model.hiden is an unknown key; did you mean model.hidden? ",
    "schedule.gama=1": "schedule.gama is an unknown key; did you mean schedule.gamma",
    "depth": "'depth' cannot be read as KEY=VALUE; use no spaces around = or in lists a,b,c, and ",
    "seed=range(0,2": "'seed=range(0,2' cannot be read as KEY=VALUE; use no spaces around = or ",
    "corruption=0.5": "corruption=0.5 is unknown; use asymmetric, file, gaussian_pixels, "
    "human, instance, matrix, pair_flip, random_pixels, shuffled_pixels, uniform, uniform_count, "
    "uniform_exclusive; how much is corrupted is another key, such as corrupt=0.4\n",
    "augment=null": "augment=null is unknown; use crop_flip, flip_rotate, none, random_crop\n",
    "sweep=nosuch": "sweep=nosuch is unknown; use course/flatness, ",
    "hydra/launcher=nosuch": "hydra/launcher=nosuch is unknown; use basic, joblib, ",
    "out=/dev/null": "/dev/null",
    "+nosuch=1": "nosuch is an unknown key; the top level takes batch_size, ",
    "+model.nosuch=1": "model.nosuch is an unknown key; model=wrn takes depth, dropout, lr, widen",
    "name=../up": "name='../up' must be a safe folder name: up to 100 letters, ",
    "out=~/x": f"out=~/x must not start with ~, which the shell leaves as it is after =; use out="
    f"{Path.home()}/x, or out=$HOME/x\n",
    "corrupt=[": "'corrupt=[' cannot be read as KEY=VALUE; use no spaces around = or in lists ",
}


@pytest.mark.parametrize("multirun", [False, True], ids=["run", "sweep"])
@pytest.mark.parametrize("argument", CASES)
def test_bad_argument(
    argument: str, multirun: bool, cli: Cli, tmp_path: Path, install_gpus: InstallGpus
) -> None:
    install_gpus()
    key, _, value = argument.partition("=")
    good = {"corrupt": "0.0", "model": "mlp", "epochs": "1", "device": "cpu", "+nosuch": "1"}
    if multirun and key in good and "nosuch" not in key and argument != "corrupt=[":
        argument = f"{key}={good[key]},{value}"  # the good value comes first
    outcome = cli(*["-m"] * multirun, "dataset=digits", argument)
    expected = CASES[f"{key}={value}" if value else key]
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.startswith(f"Error: {expected}")
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_list_without_multirun_says_to_add_m(cli: Cli) -> None:
    outcome = cli("corrupt=0.0,0.5")
    assert outcome.err == "Error: corrupt=0.0,0.5 lists several values; add -m to sweep over them\n"


@pytest.mark.parametrize("multirun", [False, True], ids=["run", "sweep"])
def test_missing_data_set(multirun: bool, cli: Cli, tmp_path: Path) -> None:
    arguments = ["dataset=cifar10", "dataset.download=false", "dataset.root=nowhere"]
    outcome = cli(*["-m", "seed=0,1"] * multirun, *arguments)
    assert outcome.code == 1
    assert outcome.err == (
        "Error: cifar10 in nowhere is missing or fails its checksum (Dataset not found or "
        "corrupted. You can use download=True to download it); set dataset.download=true, or "
        "RANDLABELS_DATA or dataset.root to the folder that has cifar-10-batches-py/data_batch_1, "
        "cifar-10-batches-py/data_batch_2, cifar-10-batches-py/data_batch_3, "
        "cifar-10-batches-py/data_batch_4, cifar-10-batches-py/data_batch_5, "
        "cifar-10-batches-py/test_batch, cifar-10-batches-py/batches.meta\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.data
def test_truncated_real_file(cli: Cli, tmp_path: Path, real_data: Path) -> None:
    folder = tmp_path / "copy" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for file in (real_data / "cifar-10-batches-py").iterdir():
        (folder / file.name).symlink_to(file.resolve())
    (folder / "data_batch_2").unlink()
    whole = (real_data / "cifar-10-batches-py" / "data_batch_2").read_bytes()
    (folder / "data_batch_2").write_bytes(whole[:-1])
    outcome = cli("dataset.root=copy", "dataset.download=false")
    assert outcome.code == 1 and "fails its checksum" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


FOLDER = ["dataset=image_folder", "dataset.root=tree", "model=mlp", "epochs=1"]


def write_spoiled_folder(root: Path, spoil: str) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(root / part / name / "0.png")
    if spoil == "empty class":
        (root / "train" / "c").mkdir()
    elif spoil == "class that train lacks":
        (root / "test" / "c").mkdir()
        Image.new("RGB", (8, 8)).save(root / "test" / "c" / "0.png")
    elif spoil == "unreadable image":
        (root / "train" / "b" / "1.png").write_bytes(b"not an image")


@pytest.mark.parametrize("multirun", [False, True], ids=["run", "sweep"])
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("empty class", "Error: tree/train/c has no image; add some or remove the folder"),
        ("class that train lacks", "Error: tree/test has class 'c', which train lacks; "),
        ("unreadable image", "Error: tree/train/b/1.png cannot be decoded ("),
    ],
)
def test_spoilt_image_folder(
    spoil: str, sentence: str, multirun: bool, cli: Cli, tmp_path: Path
) -> None:
    write_spoiled_folder(tmp_path / "tree", spoil)
    outcome = cli(*["-m", "seed=0,1"] * multirun, *FOLDER)
    assert outcome.code == 1
    assert outcome.err.startswith(sentence)
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_good_image_folder_runs(cli: Cli, tmp_path: Path) -> None:
    write_spoiled_folder(tmp_path / "tree", "not at all")
    assert cli(*FOLDER).code == 0


@pytest.mark.slow
def test_other_data_in_the_same_folder_are_not_the_same_run(cli: Cli, tmp_path: Path) -> None:
    write_spoiled_folder(tmp_path / "tree", "not at all")
    assert cli(*FOLDER).code == 0
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "tree" / "train" / "a" / "0.png")
    outcome = cli(*FOLDER)
    assert (
        outcome.code == 1
        and "was computed on other data than image_folder in tree is now" in outcome.err
    )
    assert cli(*FOLDER, "name=second").code == 0
    assert cli(*FOLDER, "force=true").code == 0
    write_spoiled_folder(tmp_path / "other", "not at all")
    outcome = cli("-m", *FOLDER, "dataset.root=tree,other")
    assert outcome.code == 1 and "would share the folder" in outcome.err


@pytest.mark.slow
def test_full_error_shows_the_traceback() -> None:
    command = [sys.executable, "-m", "randlabels.run", *TINY, "corrupt=1.5"]
    shown = subprocess.run(
        command, capture_output=True, text=True, env={"HYDRA_FULL_ERROR": "1", "PATH": ""}
    )
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr and "corrupt=1.5 must be between 0 and 1" in shown.stderr


@pytest.mark.slow
def test_file_of_keys_must_name_its_option(cli: Cli, tmp_path: Path) -> None:
    """Without the name the group's default would run under the file's keys."""
    wide = tmp_path / "own" / "model" / "wide.yaml"
    wide.parent.mkdir(parents=True)
    given = ["--config-dir", str(tmp_path / "own"), *TINY[:1], "model=wide", "plan=true"]
    for line in ("name: mlp", "defaults: [mlp]"):
        wide.write_text(f"{line}\nhidden: [7]\n")
        assert "mlp-digits" in cli(*given).out
    wide.write_text("hidden: [7]  # name: mlp\n")
    for arguments in (given, ["-m", *given]):
        assert cli(*arguments).err == (
            "Error: model={'hidden': [7]} must have a name, which says whose keys these are; "
            "add the line `name: X` to the chosen file of the group model\n"
        )
