"""The config groups and their options, found by import.

A group is a module or a package of this one with an abstract base class. Its options are the
dataclasses there that derive from the base and set `name`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from .schema import Option

PACKAGE = Path(__file__).parent

DEFAULTS = {
    "dataset": "cifar10",
    "corruption": "uniform",
    "model": "wrn",
    "optimizer": "sgd",
    "loss": "ce",
    "schedule": "step",
    "preprocess": "standardize",
    "augment": "none",
}
"""The config groups that define a run, and the default option of each."""

NAME_LINE = re.compile(r"""^    name\b[^=\n]*= *["'](.+?)["']""", re.M)
"""The line of a class that names an option."""


@cache
def options(group: str) -> dict[str, type[Option]]:
    """Return the options of a group by name; imports all of its modules.

    Raises:
        TypeError: a class lacks @dataclass, or two have the same name.
        ImportError: a module cannot be imported.
    """
    found: dict[str, type[Option]] = {}
    for module in _modules(group):
        for cls in vars(module).values():
            if not (isinstance(cls, type) and issubclass(cls, Option) and "name" in vars(cls)):
                continue
            if "__dataclass_fields__" not in vars(cls):
                raise TypeError(f"{_place(cls)} must be a dataclass; put @dataclass above it")
            first = found.setdefault(cls.name, cls)
            if first is not cls:
                raise TypeError(
                    f"{group}={cls.name} is both {_place(first)} and {_place(cls)}; "
                    "give one another name"
                )
    return found


def _place(cls: type) -> str:
    return f"class {cls.__name__} in {inspect.getfile(cls)}"


def _modules(group: str) -> Iterator[ModuleType]:
    module = importlib.import_module(f"{__package__}.{group}")
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if found.name[0] != "_":  # a draft, or what several options share
            name = f"{module.__name__}.{found.name}"
            try:
                yield importlib.import_module(name)
            except Exception as error:
                raise ImportError(f"{name} cannot be imported: {error}") from error


@contextmanager
def errors_in(option: Option) -> Iterator[None]:
    """Print the file of an option's class above the traceback of a mistake in it.

    A ValueError or OSError is a sentence for the user, and passes.
    """
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception:
        print(f"Error in {option.name!r}, {_place(type(option))}:", file=sys.stderr)
        raise


def without_file(conf: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield group, name and defaults of each option that has no file under `conf`.

    Imports only groups that have such an option, since most of them import torch.
    """
    for group in DEFAULTS:
        described = {file.stem for file in (conf / group).glob("[!.]*.yaml")}
        sources = [*PACKAGE.glob(f"{group}.py"), *PACKAGE.glob(f"{group}/[!_]*.py")]
        sources += PACKAGE.glob(f"{group}/__init__.py")
        if {name for file in sources for name in NAME_LINE.findall(file.read_text())} <= described:
            continue
        for name, cls in options(group).items():
            if name not in described:
                yield group, name, {"name": name, **dataclasses.asdict(cls())}
