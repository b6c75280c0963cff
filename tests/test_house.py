"""The house: who may import whom, what may not be written, what a wheel carries."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from .test_readme import my_parts

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "randlabels").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")])

FLOORS = [
    ["randomness", "console", "schema", "kernels"],
    ["optimizer", "loss", "schedule", "registry", "store", "preprocess", "augment", "model"],
    ["dataset", "live"],
    ["corruption"],
    ["config", "sensitivity", "dynamics"],
    ["machine", "experiment"],
    ["network"],
    ["fit"],
    ["solve"],
    ["checks"],
    ["execute"],
    ["cli"],
    ["launchers"],
    ["run"],
    ["door"],
    ["__main__"],
]
"""From the ground up; a module imports from its own package and from the floors below. Any
`__main__.py` is a command of its own, on the top floor."""

READ_BY_ANALYSIS = ("store", "console", "live")
"""Modules of randlabels that analysis may import."""

AVOIDED_WORDS = re.compile(
    r"\b(anew|beside|told|nobody|let be|passed over|one's own|likewise|whatever|whoever|so many"
    r"|of its own|for want of|(?:is|are) no(?! longer))\b",
    re.IGNORECASE,
)
"""Words that readers stumble over; docs/contributing.md points here."""


def imported(file: Path) -> set[str]:
    """The modules of randlabels that a file imports, at run time, by their first name."""
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    tree = ast.parse(file.read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {name[1] for name in names if name[0] == "randlabels" and len(name) > 1}
        if id(node) in typing_only or not isinstance(node, ast.ImportFrom):
            continue
        base = [*package[: len(package) - node.level + 1]] if node.level else []
        path = [*base, *(node.module.split(".") if node.module else [])]
        for alias in node.names:
            full = [*path, alias.name]
            if full[0] == "randlabels" and len(full) > 1:
                found.add(full[1])
    return found


def test_no_import_goes_up_a_floor() -> None:
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    for file in SOURCES:
        if "analysis" in file.parts or file == ROOT / "randlabels" / "__init__.py":
            continue
        room = file.relative_to(ROOT / "randlabels").with_suffix("").parts
        own = "__main__" if room[-1] == "__main__" else room[0]
        for other in imported(file) - {own, "__version__"}:
            assert floor[other] < floor[own], f"{file} imports {other}"


def test_drawing_of_the_floors_is_that_of_the_code() -> None:
    from . import layout

    assert layout.PAGE.read_text() == layout.page(), "draw it again: python -m tests.layout"
    named = re.findall(r"`(\w+)`", layout.PAGE.read_text().partition("`analysis` imports")[2])
    assert set(named[: len(READ_BY_ANALYSIS)]) == set(READ_BY_ANALYSIS)


def test_analysis_imports_only_three_modules_and_never_torch() -> None:
    for file in SOURCES:
        if "analysis" in file.parts:
            assert imported(file) <= {*READ_BY_ANALYSIS, "__version__"}, file
    code = "import sys, analysis.collect; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_make_bench_runs_every_benchmark_or_says_why_not() -> None:
    from .benchmarks.__main__ import LEFT_OUT, SHORT

    files = {file.stem for file in (ROOT / "tests" / "benchmarks").glob("[!_]*.py")}
    assert files == SHORT.keys() | LEFT_OUT.keys() and not SHORT.keys() & LEFT_OUT.keys()


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, randlabels.run as r; r.prepare_hydra(); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_nothing_is_executed_from_a_file_and_no_file_is_long(file: Path) -> None:
    text = file.read_text()
    assert not re.search(
        r"pickle\.loads?\(|weights_only=False|instantiate\(|yaml\.load\((?!.*Safe)", text
    )
    assert not re.search(r"(?<![.\w])eval\(|(?<![.\w])exec\(|except:", text)
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text)) or not text.strip()


def test_code_and_pages_avoid_words_that_readers_stumble_over() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.yaml", "*.j2", "*.toml", "Makefile", ".ci/run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [
        f"{file}:{number}: {line.strip()}"
        for file in listed.stdout.splitlines()
        if Path(file).name != Path(__file__).name
        for number, line in enumerate((ROOT / file).read_text().splitlines(), 1)
        if AVOIDED_WORDS.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_carries_everything_and_runs_from_an_empty_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"randlabels"}
    for file in ("conf/config.yaml", "conf/sweep/demo.yaml", "analysis/collect.py"):
        assert f"randlabels/{file}" in names
    assert len(names) == len(set(names))

    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    query = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip())
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
    # The dependencies are those of this environment; its own editable install stays unseen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    empty = tmp_path / "empty"
    empty.mkdir()

    def call(*command: str) -> str:
        done = subprocess.run(
            [str(environment / "bin" / command[0]), *command[1:]],
            cwd=empty,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = call("python", "-c", "import randlabels; print(randlabels.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    out = call("randlabels", "sweep=demo", "epochs=1", "dataset.train_size=64", "threads=1")
    assert "10 runs in runs/demo: 10 done" in out
    assert "Tables: python -m randlabels.analysis.collect runs/demo" in out
    cells = json.loads((ROOT / "notebooks" / "memorisation.ipynb").read_text())["cells"]
    code = [[*cell["source"], "\n"] for cell in cells if cell["cell_type"] == "code"]
    lines = [line for source in code for line in source if not line.startswith("%")]
    (empty / "memorisation.py").write_text("".join(lines))
    assert "of 1442 labels are wrong" in call("python", "memorisation.py")

    (empty / "my_parts.py").write_text(my_parts())
    own = ("imports=my_parts.py", "model=tiny", "corruption=lazy", "dataset=digits", "epochs=1")
    out = call("randlabels", "-m", *own, "corrupt=0.4,1.0", "hydra/launcher=packed")
    assert "2 runs in runs/default: 2 done" in out
    load = "import randlabels as r; table = r.runs('runs/default').set_index('model'); "
    load += "run = r.load('runs/default/' + table.loc['tiny', 'run_id'].iloc[0]); "
    load += "print(tuple(run.model()(run.test.images).shape))"
    assert call("python", "-c", load) == "(355, 10)\n"
    code = "import randlabels; print(set(randlabels.runs('runs/demo')['state']))"
    assert call("python", "-c", code) == "{'done'}\n"
    call("python", "-m", "randlabels.analysis.report", "runs/demo")
    call("python", "-m", "randlabels.analysis.compare", "runs/demo", "--to", "paper")
    for name in ("test_error.csv", "report.html", "compare_paper.csv"):
        assert (empty / "runs" / "demo" / "summary" / name).is_file()
