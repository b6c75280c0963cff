"""The golden runs under every version of torch, and under the lowest versions, that are allowed.

    make versions        # about half an hour; some 15 GB in a temporary folder

The first environment has the lowest version of each dependency that pyproject.toml allows, on the
lowest Python; each of the others has one minor version of torch and the newest of all else.
`UV_TORCH_BACKEND=cpu` makes them ten times smaller where PyTorch's index for CPUs can be reached.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from itertools import cycle, repeat
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

PYTHONS = ("3.11", "3.12", "3.13")
TESTS = ["tests/test_golden.py", "tests/test_recorded_networks.py"]
CHOICE = "not test_report and not in_the_report"  # of the golden tests; these draw all figures
LOWEST = [f"tests/test_{name}.py" for name in ("tables", "collect", "compare")]
LOWEST += ["-o", "filterwarnings="]  # old versions of libraries warn of each other

SHOWN = ("torch", "torchvision", "numpy", "pandas")

VERSIONS = f"""
import platform
from importlib.metadata import version
print(*(version(name).partition("+")[0] for name in {SHOWN}), platform.python_version())
"""


def environments() -> Iterator[tuple[str, str, int]]:
    """Yield version of Python, resolution and minor version of torch 2."""
    (torch,) = (line for line in PROJECT["dependencies"] if line.startswith("torch>"))
    found = re.fullmatch(r"torch>=2\.(\d+),<2\.(\d+)", torch)
    assert found
    lowest, above = map(int, found.groups())
    yield PYTHONS[0], "lowest-direct", lowest
    yield from zip(cycle(reversed(PYTHONS)), repeat("highest"), range(lowest + 1, above))


def examine(python: str, resolution: str, minor: int, folder: Path) -> list[str]:
    """Return the row of an environment: its versions and the verdict."""
    uv = [sys.executable, "-m", "uv", "--quiet"]
    environment = {**os.environ, "UV_CACHE_DIR": str(folder / "cache")}  # links files, no copies
    place = folder / f"{python}-{resolution}-{minor}"
    tools = [x for x in PROJECT["optional-dependencies"]["dev"] if re.match("pytest|hypoth", x)]
    wanted = ["--editable", ".", f"torch==2.{minor}.*", "torchvision", *tools]
    install = [*uv, "pip", "install", "--python", str(place), "--resolution", resolution, *wanted]
    for command in ([*uv, "venv", "--python", python, str(place)], install):
        if subprocess.run(command, cwd=ROOT, env=environment).returncode:
            return [f"2.{minor}", *["-"] * 3, python, "could not be installed"]
    interpreter = str(place / "bin" / "python")

    def call(*arguments: str) -> str:
        command = [interpreter, *arguments]
        return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout

    tests = TESTS + (LOWEST if resolution == "lowest-direct" else [])
    options = ["-n0", "-q", "-p", "no:cacheprovider", "--timeout=1200", "-k", CHOICE]
    output = call("-m", "pytest", *options, *tests)
    print(output)
    return [*call("-c", VERSIONS).split(), output.splitlines()[-1].strip("= ")]


def main() -> None:
    rows = [[*SHOWN, "python", "golden runs"], ["---"] * 6]
    with tempfile.TemporaryDirectory() as folder:
        for environment in environments():
            rows.append(examine(*environment, Path(folder)))
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    sys.exit(any(" failed" in row[-1] or "passed" not in row[-1] for row in rows[2:]))


if __name__ == "__main__":
    main()
