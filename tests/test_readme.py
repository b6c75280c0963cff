"""The README: its commands run, its one-file model works, it stays short."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXTEND = (ROOT / "docs" / "extend.md").read_text()

SHORT = [
    "dataset=digits",
    "dataset.train_size=64",
    "epochs=1",
]
"""What shortens a command; appended, so that it says the same otherwise."""


def commands() -> list[str]:
    """All indented command lines, without their comments."""
    lines = re.findall(r"^    ((?:python|make) .+)$", README, re.M)
    return [line.partition("#")[0].strip() for line in lines]


def test_readme_is_short_and_starts_with_the_papers_sweep() -> None:
    assert len(README.splitlines()) < 150
    assert commands()[:2] == [
        "python -m randlabels.run -m corrupt=0.0,0.2,0.5,0.8,1.0 model=wrn,mlp",
        "python -m analysis.collect runs/default",
    ]


def test_every_command_runs_in_order(tmp_path: Path) -> None:
    """In an empty folder, through the shell; `make demo` is run as the two commands it names."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for command in commands():
        lines = [command]
        if command.startswith("make"):
            target = command.split()[1]
            recipe = re.search(
                rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M
            )
            assert recipe is not None
            lines = [line.strip().replace("$(BIN)/", "") for line in recipe[1].splitlines()]
        for line in lines:
            if "randlabels.run" in line and "--help" not in line:
                exact = "model=kernel" in line  # which takes no number of epochs
                line = " ".join([line, *SHORT[: 2 if exact else 3]])
            if "randlabels.corruption" in line:
                line += " dataset=digits"
            line = line.replace("python", sys.executable, 1)
            done = subprocess.run(
                line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    for name in ("default", "demo"):
        summary = tmp_path / "runs" / name / "summary"
        assert (summary / "runs.csv").is_file() and (summary / "report.html").is_file()
    assert len(list((tmp_path / "runs" / "seed-readme").glob("*/done.json"))) == 3


def test_every_example_of_the_help_runs(tmp_path: Path) -> None:
    def shell(line: str) -> str:
        line = line.replace("python", sys.executable, 1)
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    text = shell("python -m randlabels.run --help")
    examples = re.findall(r"^  (python -m randlabels.run (?!\[).+)$", text, re.M)
    assert len(examples) == 4
    for example in examples:
        assert "planned" in shell(" ".join([example, *SHORT, "plan=true"]))


def test_a_model_in_one_file_composes_trains_and_is_listed(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", EXTEND, re.S)
    file = re.match(r"# (\S+)\n", code)
    assert file is not None
    for part in ("randlabels", "conf", "sweeps"):
        shutil.copytree(ROOT / part, tmp_path / part, symlinks=True)
    (tmp_path / file[1]).write_text(code)

    def call(*arguments: str) -> str:
        command = [sys.executable, "-m", "randlabels.run", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "  tiny\n      model.width=8 model.lr=0.05\n" in call("--help")
    out = call("-m", "model=tiny", "model.width=2,4", "corrupt=1.0", *SHORT)
    assert out.count("done") == 3
    assert "Number of parameters: 1310" in out  # 9·2 + 2 + 128·10 + 10


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("class Oops(\n", "oops.py, line 1: "),
        ('class Oops:\n    name = "oops"\n', "the class named 'oops' is no dataclass"),
        (
            'from dataclasses import dataclass\n@dataclass\nclass Oops:\n    name = "oops"\n',
            "model=oops has no key lr; class Oops must have one",
        ),
    ],
)
def test_a_mistake_in_ones_own_file_is_one_sentence(
    code: str, sentence: str, tmp_path: Path
) -> None:
    for part in ("randlabels", "conf", "sweeps"):
        shutil.copytree(ROOT / part, tmp_path / part, symlinks=True)
    (tmp_path / "randlabels" / "models" / "oops.py").write_text(code)
    command = [sys.executable, "-m", "randlabels.run", "model=mlp", *SHORT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and sentence in done.stderr
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", README)
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists()


@pytest.mark.parametrize("group", ["dataset", "model", "corruption", "optimizer", "schedule"])
def test_table_of_options_is_complete(group: str) -> None:
    row = re.search(rf"^\| `{group}` \| (.*) \|$", README, re.M)
    assert row is not None
    listed = re.findall(r"`(\w+)`", row[1])
    assert sorted(listed) == sorted(p.stem for p in (ROOT / "conf" / group).glob("*.yaml"))
