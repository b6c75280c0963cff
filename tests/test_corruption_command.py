"""`python -m randlabels.corruption`: the matrices that it prints, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from randlabels.corruption import __main__ as command
from randlabels.experiment import load

from .conftest import CallMain, run_with_closed_pipe
from .own import Write


@pytest.fixture
def run_command(call_main: CallMain, capsys: pytest.CaptureFixture):
    """Return the standard output of the command, or the sentence that it exits with."""

    def run(*arguments: str) -> str:
        try:
            call_main(command.main, *arguments)
        except SystemExit as end:
            assert end.code not in (0, None)
            return str(end.code)
        return capsys.readouterr().out

    return run


def printed_matrices(text: str) -> list[np.ndarray]:
    """Return the numbers of each printed table, without the column of true labels."""
    rows = [re.findall(r"[\d.]+", line)[1:] for line in text.splitlines() if line.startswith("│")]
    matrix = np.array(rows, dtype=float)
    return [matrix[:10], matrix[10:]]


def test_prints_both_matrices_and_the_share_changed(run_command) -> None:
    text = run_command("uniform", "-p", "0.5", "dataset=digits", "corruption.seed=3")
    stated, drawn = printed_matrices(text)
    np.testing.assert_allclose(stated, 0.5 * np.eye(10) + 0.05)
    true = load(dataset_options("digits")).train.labels.numpy()
    rng = np.random.RandomState(3)
    given, mask = true.copy(), rng.rand(len(true)) <= 0.5
    given[mask] = rng.choice(10, mask.sum())
    counts = np.zeros((10, 10))
    np.add.at(counts, (true, given), 1)
    np.testing.assert_allclose(drawn, counts / counts.sum(1, keepdims=True), atol=5.1e-4)
    assert f"Labels changed: {np.mean(given != true):.4%} of 1,442" in text
    assert "uniform, p = 0.5, digits: stated" in text


def dataset_options(name: str):
    from randlabels.config import parse

    return parse({"dataset": {"name": name}}).dataset


def test_stated_matrix_of_a_wrong_form_is_refused(run_command, write: Write) -> None:
    write(
        """
        @dataclass
        class Own(PairFlip):
            name: ClassVar[str] = "own"

            def transition(self, source, corrupt):
                return np.eye(3)
        """
    )
    sentence = run_command("own", "-p", "0.25", "dataset=digits")
    assert "must return (10, 10), with rows that sum to 1" in sentence


def test_many_classes_show_only_the_share_changed(run_command, write: Write) -> None:
    write(
        """
        @dataclass
        class Own(Digits):
            name: ClassVar[str] = "own"

            def load(self):
                digits = super().load()
                return Data(digits.train, digits.test, classes=40)
        """
    )
    text = run_command("pair_flip", "-p", "1.0", "dataset=own")
    assert text == "Labels changed: 100.0000% of 1,442\n"


def test_corruptions_of_pixels_change_images_and_no_labels(run_command) -> None:
    text = run_command("random_pixels", "-p", "0.5", "dataset=digits")
    assert re.match(r"Images altered: (4[5-9]|5[0-5])\.\d{4}% of 1,442\n", text)
    assert "Labels changed: 0.0000% of 1,442" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nosuch", "-p", "0.5"], "corruption=nosuch is unknown; use asymmetric, "),
        (["uniform", "-p", "2"], "corrupt=2.0 must be between 0 and 1"),
        (["uniform", "-p", "abc"], "argument -p/--prob: invalid float value: 'abc'; use "),
        (["uniform", "-p", "nan"], "corrupt=nan must be between 0 and 1"),
        (["uniform"], "the following arguments are required: -p/--prob; use python -m randlabels"),
        (["uniform", "-p", "0.5", "--nosuch"], "unrecognized arguments: --nosuch; use "),
        (["uniform", "-p", "0.5", "depth"], "'depth' cannot be read as KEY=VALUE; "),
        (["uniform", "-p", "0.5", "corruption.sed=1"], "corruption.sed is an unknown key; "),
        (["asymmetric", "-p", "0.5", "dataset=digits"], "corruption=asymmetric has no map "),
        (["human", "-p", "0.5", "dataset=digits"], "corruption.path=null must be the file of "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_sentence(arguments: list[str], sentence: str, run_command) -> None:
    found = run_command(*arguments)
    assert found.startswith(f"Error: {sentence}") and "\n" not in found


def test_module_runs_as_a_command(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "randlabels.corruption", "uniform", "-p", "7", "dataset=digits"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "Error: corrupt=7.0 must be between 0 and 1\n"


def test_closed_pipe_is_not_an_error() -> None:
    done = run_with_closed_pipe("randlabels.corruption", "uniform", "-p", "0.5", "dataset=digits")
    assert (done.returncode, done.stderr) == (0, "")
