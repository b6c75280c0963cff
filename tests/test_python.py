"""The package from Python: `import randlabels`, sweeps, the page and the notebook."""

from __future__ import annotations

import base64
import copy
import doctest
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from nbclient import NotebookClient

import randlabels
from randlabels.door import labels, results
from randlabels.machine import stopping

from .conftest import BASIC, TINY, Cli

pytestmark = pytest.mark.usefixtures("folder")


def test_import_brings_no_library() -> None:
    code = "import sys, randlabels; assert 'sweep' in dir(randlabels); "
    code += "print({'torch', 'numpy', 'pandas', 'hydra', 'typing'} & sys.modules.keys())"
    command = [sys.executable, "-S", "-c", code]
    root = Path(randlabels.__file__).parent.parent
    assert subprocess.check_output(command, cwd=root, text=True) == "set()\n"


@pytest.mark.parametrize("module", [labels, results])
def test_examples_in_docstrings_are_true(module: Any) -> None:
    tests = doctest.DocTestFinder().find(module, globs={"randlabels": randlabels})
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in sorted(tests, key=lambda test: test.lineno or 0):
        runner.run(test)
    assert runner.tries >= 2 and runner.failures == 0


# sweep


def test_sweep_equals_the_command_and_leaves_the_process_as_it_was(cli: Cli) -> None:
    cli("-m", *TINY, BASIC, "corrupt=0.0,0.5", "seed=range(2)", "name=command")
    argv, threads = sys.argv[:], torch.get_num_threads()
    sys.argv[:] = ["notebook", "--nonsense"]
    try:
        table = randlabels.sweep(
            *TINY, BASIC, corrupt=np.array([0.0, 0.5]), seed=range(2), name="x"
        )
    finally:
        sys.argv[:] = argv
    assert not GlobalHydra.instance().is_initialized() and torch.get_num_threads() == threads
    measured = ["run_id", "state", "corrupt", "seed", "final_train_loss", "final_test_acc"]
    pd.testing.assert_frame_equal(table[measured], randlabels.runs("runs/command")[measured])
    again = randlabels.sweep(*TINY, "model.hidden=[8]", BASIC, corrupt=0.5, name="x")
    pd.testing.assert_frame_equal(again, table)  # of all runs in the folder


def test_failure_in_a_run_is_its_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("randlabels.fit.start", fail)
    table = randlabels.sweep(*TINY, BASIC, seed=[0, 1])
    assert table["state"].tolist() == ["failed", "failed"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"corrupt": [0.5, 1.5]}, "corrupt=1.5 must be between 0 and 1"),
        ({"model": "lenett"}, "model=lenett is unknown; use alexnet"),
        ({"epoch": 3}, "epoch is an unknown key; did you mean epochs?"),
        ({"keep": [[1000]]}, "keep=[1000] must list epochs from -1"),
    ],
)
def test_bad_config_raises_the_sentence_of_the_command(
    folder: Path, keys: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError) as error:
        randlabels.sweep(*TINY, **keys)
    assert sentence in str(error.value) and not (folder / "runs").exists()


def test_ctrl_c_during_a_sweep_is_a_keyboard_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stopping.Watch, "__call__", lambda watch: signal.raise_signal(signal.SIGINT))
        randlabels.sweep(*TINY, BASIC, seed=[0, 1])
    assert randlabels.sweep(*TINY, BASIC, seed=[0, 1])["state"].tolist() == ["done", "done"]


# docs/python.md and notebooks/memorisation.ipynb


def test_code_on_the_page_runs(
    folder: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "data").symlink_to(real_data.resolve())
    shortened = partial(results.sweep, BASIC, "dataset.train_size=64")
    monkeypatch.setattr(randlabels, "sweep", shortened, raising=False)
    page = (NOTEBOOK.parent.parent / "docs" / "python.md").read_text()
    assert len(page.splitlines()) <= 70
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block, names)
    assert names["wrong"].mean() == pytest.approx(0.36, abs=0.01) and len(names["logits"]) == 355


NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "memorisation.ipynb"


def png_outputs(notebook: Any) -> list[bytes]:
    """Return the PNG files among the outputs of a notebook."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [output["data"] for output in outputs if output.output_type != "stream"]
    texts = [data["image/png"] for data in shown if "image/png" in data]
    return [base64.b64decode(text) for text in texts]


@pytest.mark.slow
def test_notebook_runs_from_an_empty_folder_and_is_committed_with_its_outputs(folder: Path) -> None:
    committed = nbformat.read(NOTEBOOK, as_version=4)
    (figure,) = png_outputs(committed)
    assert len(figure) <= 40_000
    executed = copy.deepcopy(committed)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs = []
    NotebookClient(executed, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()
    assert len(png_outputs(executed)) == 1
    counts = [len(cell.outputs) for cell in code]
    assert counts == [len(c.outputs) for c in committed.cells if c.cell_type == "code"]
    table = code[-1].outputs[0]["data"]["text/plain"].split()
    assert table[-3:] == ["59", "0.000", "1.000"]  # all wrong labels are memorised
