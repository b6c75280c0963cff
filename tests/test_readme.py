"""README and docs/: their commands run or are accepted, their files work, their links lead on."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from randlabels.dataset import Data, Split
from randlabels.dataset.published import _Vision

from .conftest import CallMain, Cli
from .synthetic import CURVES, write_run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXTEND = (ROOT / "docs" / "extend.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()

PARTS = ("train", "test")
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:python|make|pip|pytest|ruff|mypy) .+")

SHORT = [
    "dataset=digits",
    "dataset.train_size=64",
    "epochs=1",
]
"""Keys appended to a command to shorten it."""


def commands(page: Path) -> list[str]:
    """Return all commands of a page in order: indented lines and code spans, without comments."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    text = re.sub(r"\\\n\s*", "", text)  # a continued line
    found = re.findall(r"^    (.+)$|`([^`]+)`", text, re.M)
    lines = [" ".join((line or span).split("#")[0].split()) for line, span in found]
    return [line for line in lines if COMMAND.fullmatch(line) and "[-m]" not in line]


def shown_commands(page: Path) -> list[str]:
    """Return the commands on separate lines, which a reader copies."""
    own = re.findall(r"^    (.+?)(?:\s+#.*)?$", page.read_text(), re.M)
    return [line for line in own if COMMAND.fullmatch(line)]


def test_readme_is_short_and_starts_with_the_papers_sweep() -> None:
    assert len(README.splitlines()) <= 130
    assert shown_commands(ROOT / "README.md")[:2] == [
        "python -m randlabels.run -m corrupt=0.0,0.2,0.5,0.8,1.0 model=wrn,mlp",
        "python -m analysis.collect runs/default",
    ]


def run_in_shell(line: str, folder: Path, environment: dict[str, str]) -> str:
    """Return the output of a shell command, which must succeed."""
    line = line.replace("python", sys.executable, 1)
    done = subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_every_command_runs_in_order(tmp_path: Path) -> None:
    """In an empty folder, through the shell; `make demo` is run as the commands it names.

    The first sweep has the default launcher's worker processes, the others one process each.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    launcher = ""
    for command in shown_commands(ROOT / "README.md"):
        lines = [command]
        if command.startswith("make"):
            target = command.split()[1]
            recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
            assert recipe is not None
            lines = [line.strip().replace("$(BIN)/", "") for line in recipe[1].splitlines()]
        for line in lines:
            if "randlabels.run" in line and "--help" not in line:
                exact = "model=kernel" in line  # which takes no number of epochs
                line = " ".join([line, *SHORT[: 2 if exact else 3], launcher])
                launcher = "hydra.launcher.n_jobs=1"
            if "randlabels.corruption" in line:
                line += " dataset=digits"
            run_in_shell(line, tmp_path, environment)
    for name in ("default", "demo"):
        summary = tmp_path / "runs" / name / "summary"
        assert (summary / "runs.csv").is_file() and (summary / "report.html").is_file()
    assert len(list((tmp_path / "runs" / "seed-readme").glob("*/done.json"))) == 3


@pytest.mark.slow
def test_every_example_of_the_help_runs(cli: Cli) -> None:
    text = cli("--help").out
    examples = re.findall(r"^  python -m randlabels.run (?!\[)(.+)$", text, re.M)
    assert len(examples) == 4
    for example in examples:
        assert "planned" in cli(*shlex.split(example), *SHORT, "plan=true").out


@pytest.fixture
def published_in_memory(monkeypatch: pytest.MonkeyPatch, one_second_epochs: None) -> None:
    """The published image sets in their own shapes, nearly black, without their files."""

    def load(self: _Vision) -> Data:
        shape = (1, 28, 28) if "mnist" in self.name else (3, 32, 32)
        classes = 100 if self.name == "cifar100" else 10

        def split(size: int) -> Split:
            images, number = torch.zeros(size, *shape, dtype=torch.uint8), torch.arange(size)
            images[:, 0, 0, 0], images[:, 0, 0, 1] = number // 256, number % 256  # all differ
            return Split(images, number % classes)

        return Data(split(16_000), split(200), classes)

    monkeypatch.setattr(_Vision, "load", load)


def check_that_command_works(command: str, cli: Cli, call_main: CallMain) -> None:
    """Fail unless a command is one: a sweep is planned, a table written, a benchmark found."""
    program, *arguments = shlex.split(re.sub(r"^([A-Z_]+=\S+ )+", "", command))
    if program == "make":
        assert set(arguments) <= set(re.findall(r"^(\w+):", MAKEFILE, re.M))
    elif program == "pip":
        extra = re.search(r"\[(\w+)\]", arguments[-1])
        assert extra is None or extra[1] in PROJECT["project"]["optional-dependencies"]
    elif program in ("pytest", "ruff", "mypy"):
        marks = [mark.split(":")[0] for mark in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
        assert "-m" not in arguments or arguments[arguments.index("-m") + 1] in marks
        assert all((ROOT / path).exists() for path in arguments if "/" in path)
    elif len(arguments) == 2:  # it is only named
        assert importlib.util.find_spec(arguments[1])
    elif (module := arguments[1]) == "randlabels.run":
        outcome = cli(*arguments[2:], *(["plan=true"] if "--help" not in arguments else []))
        assert outcome.code == 0, outcome.err
        assert "nothing was started" in outcome.out or "--help" in arguments
    elif module == "randlabels.corruption":
        main = importlib.import_module("randlabels.corruption.__main__").main
        call_main(main, *arguments[2:], "dataset=digits")
    elif module.startswith("analysis."):
        folder = Path(arguments[2])
        if not folder.is_dir():
            for (corrupt, seed), curve in CURVES.items():
                model = {"name": "mlp", "hidden": [8 + seed]}  # a key that differs
                write_run(folder, curve, corrupt=corrupt, seed=seed, model=model)
        importlib.import_module(module).main(arguments[2:])
    else:
        source = ROOT.joinpath(*module.split("."))
        text = (
            source / "__main__.py" if source.is_dir() else source.with_suffix(".py")
        ).read_text()
        assert all(f'"{word}"' in text for word in arguments if word.startswith("--"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_is_accepted(
    page: Path, cli: Cli, published_in_memory: None, call_main: CallMain
) -> None:
    """Commands of extend.md need its files and are executed below, as are those of the README."""
    for command in commands(page):
        if page.stem != "extend" or "randlabels" not in command:
            check_that_command_works(command, cli, call_main)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)|<img[^>]*\ssrc=\"([^\"]+)\"", text):
        path, _, heading = (target[0] or target[1]).partition("#")
        assert path.startswith("https://") or (page.parent / path).exists(), target
        assert not heading or heading in _anchors(page.parent / path if path else page)
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    for name in re.findall(r"`([\w/.-]+\.py)`", prose):
        assert list(ROOT.glob(name)) or list(ROOT.glob(f"[art]*/**/{name}")), name


def _anchors(page: Path) -> list[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_pictures_are_small_and_of_the_demo() -> None:
    pictures = sorted((ROOT / "docs").glob("*.png"))
    assert pictures and sum(file.stat().st_size for file in pictures) < 60_000
    for file in pictures:
        assert f"docs/{file.name}" in README.partition("    make demo")[0]


def my_parts() -> str:
    """Return the file of own parts that the page shows."""
    (code,) = re.findall(r"```python\n# my_parts.py\n(.*?)```", EXTEND, re.S)
    return str(code)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_own_parts_work_as_the_page_says(tmp_path: Path) -> None:
    """Its file is written as it stands, and its commands executed through the shell."""
    (tmp_path / "my_parts.py").write_text(my_parts())
    rng = np.random.RandomState(0)
    halves = {f"x_{p}": rng.randint(0, 256, (9, 3, 8, 8)).astype(np.uint8) for p in PARTS}
    np.savez(tmp_path / "arrays.npz", **halves, **{f"y_{p}": np.arange(9) % 3 for p in PARTS})

    (variable,) = re.findall(r"^    export (\w+)=my_parts.py$", EXTEND, re.M)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), variable: "my_parts.py"}
    out = {}
    for line in shown_commands(ROOT / "docs" / "extend.md"):
        short = SHORT[2:] if "dataset=" in line else SHORT[:1] if " -p " in line else SHORT
        short = [*short, "verbose=true"] if "randlabels.run -m" in line else short
        out[line] = run_in_shell(" ".join([line, *short]), tmp_path, environment)
    sweep, shown, noise, arrays = out.values()
    assert "4 runs in runs/default: 4 done" in sweep
    assert "Number of parameters: 5210" in sweep  # 8·9 + 8 + 8·8·8·10 + 10
    assert "  tiny\n      model.width=8 model.lr=0.05\n" in shown and "  mae\n" in shown
    assert "0.733" in noise and "Labels changed: " in noise
    assert "000: Acc-tr:" in arrays


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("class Oops(\n", 'oops.py", line 1'),
        (
            'from randlabels.model import Model\n\nclass Oops(Model):\n    name = "oops"\n',
            "oops.py must be a dataclass; put @dataclass above it",
        ),
    ],
)
def test_mistake_in_an_own_file_is_a_traceback_that_names_it(
    code: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "oops.py").write_text(code)
    command = [sys.executable, "-m", "randlabels.run", "imports=oops.py", "model=mlp", *SHORT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and sentence in done.stderr
    assert "Traceback" in done.stderr
