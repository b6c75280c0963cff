"""A file of own parts in an empty folder: each launcher, stopped and resumed; completion."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from randlabels.store.rundir import RunDir

from .conftest import started, wait_until
from .test_readme import ROOT, my_parts

OWN = ["imports=my_parts.py", "model=tiny", "corruption=lazy", "loss=mae", "corrupt=0.4"]
LONG = ["dataset=digits", "dataset.train_size=64", "epochs=200", "checkpoint_every=0.1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RANDLABELS_IMPORTS", raising=False)
    (tmp_path / "my_parts.py").write_text(my_parts())
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("launcher", "other"), [("packed", "joblib"), ("joblib", "basic"), ("basic", "packed")]
)
def test_sweep_of_own_parts_stops_and_goes_on_under_every_launcher(
    folder: Path, launcher: str, other: str
) -> None:
    sweep = ["-m", *OWN, *LONG]
    quiet = subprocess.DEVNULL
    with started(folder, *sweep, f"hydra/launcher={launcher}", stdout=quiet) as process:
        wait_until(lambda: any(folder.glob("runs/*/*/checkpoint.pt")), seconds=200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    (run,) = (RunDir(file.parent) for file in folder.glob("runs/*/*/config.yaml"))
    assert run.state() == "interrupted"
    with started(folder, *sweep, f"hydra/launcher={other}", stdout=quiet) as process:
        assert process.wait(200) == 0
    assert run.state() == "done" and "Resuming" in run.log.read_text()
    config = yaml.safe_load(run.config.read_text())
    file = str(folder / "my_parts.py")
    assert config["imports"] == [file]
    recorded = json.loads(run.environment.read_text())["imports"]
    assert recorded == {file: config["model"]["code_sha256"]}


@pytest.mark.slow
@pytest.mark.parametrize("line", ["imports=my_parts.py model=t", "imports=[my_parts.py] model=t"])
def test_tab_completion_knows_own_parts(folder: Path, line: str) -> None:
    command = [str(Path(sys.executable).with_name("randlabels")), "-sc", "query=bash"]
    environment = {**os.environ, "COMP_LINE": f"randlabels {line}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert "model=tiny" in done.stdout.split(), done.stderr
