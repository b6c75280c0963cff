"""Linux and macOS work, with what either lacks; Windows is refused in one sentence."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from .conftest import Cli

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("module", ["randlabels", "randlabels.run", "randlabels.store.files"])
def test_windows_is_refused_in_one_sentence(module: str) -> None:
    code = f"import sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    sentence = "Error: randlabels must run on Linux or macOS; on Windows, use WSL\n"
    assert done.stderr == sentence


@pytest.mark.slow
def test_sweeps_are_found_where_links_are_plain_files(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_second_epochs: None
) -> None:
    """Such are checkouts on some file systems, and unpacked archives."""
    commands = ("sweep=seed/readme_mini", "plan=true", "out=runs"), ("--help",)
    expected = [cli(*command) for command in commands]
    conf = tmp_path / "checkout" / "conf"
    shutil.copytree(ROOT / "conf", conf, ignore=shutil.ignore_patterns("sweep"))
    (conf / "sweep").write_text("../sweeps")
    shutil.copytree(ROOT / "sweeps", conf.parent / "sweeps")
    for module in ("cli", "run"):
        monkeypatch.setattr(f"randlabels.{module}.CONF", conf)
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", copy.deepcopy(store.repo))
    assert [cli(*command) for command in commands] == expected
