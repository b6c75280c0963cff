"""The config groups and their options, found by import.

A group is a module or subpackage of `randlabels` with an abstract base class. Its options are the
dataclasses that derive from this class and set `name`, there and in the files of `imports`.
"""

import dataclasses
import hashlib
import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from .schema import Option

PACKAGE = Path(__file__).parent

DEFAULTS = {  # the config groups that define a run, and the default option of each
    "dataset": "cifar10",
    "corruption": "uniform",
    "model": "wrn",
    "optimizer": "sgd",
    "loss": "ce",
    "schedule": "step",
    "preprocess": "standardize",
    "augment": "none",
}

_imported: dict[str, str] = {}  # sha256 of each file of `imports`, by its absolute path
_code_sha256: dict[type[Option], str] = {}  # of the files of options outside of this package
NAME_LINE = re.compile(r"""^    name\b[^=\n]*= *["'](.+?)["']""", re.M)  # of a class


@cache
def options(group: str) -> dict[str, type[Option]]:
    """Return the options of a group by name; imports all of its modules.

    ValueError if two classes have the same name, TypeError if one lacks @dataclass.
    """
    modules = list(_modules(group))
    base: type[Option] = getattr(modules[0], group.capitalize())
    classes = [cls for module in modules for cls in vars(module).values()]
    found: dict[str, type[Option]] = {}
    for cls in [*classes, *_code_sha256]:
        if not (isinstance(cls, type) and issubclass(cls, base) and "name" in vars(cls)):
            continue
        if "__dataclass_fields__" not in vars(cls):
            raise TypeError(f"{_place(cls)} must be a dataclass; put @dataclass above it")
        first = found.setdefault(cls.name, cls)
        if first is not cls:
            raise ValueError(
                f"{group}={cls.name} is both {_place(first)} and {_place(cls)}; "
                "give one another name"
            )
    return found


def import_files(names: object) -> dict[str, str]:
    """Import Python files, whose classes are options too; return their sha256 by absolute path.

    A process imports a file only once; the sha256 is that of the imported content. ValueError if a
    file is missing or has the name of another module, ImportError if it cannot be imported.

    names: list of paths, or a text with `os.pathsep` between them; None: RANDLABELS_IMPORTS.
    """
    if names is None:
        names = os.environ.get("RANDLABELS_IMPORTS", "")
    if isinstance(names, str):
        names = [name for name in names.split(os.pathsep) if name]
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"imports={names} must be Python files; use imports=[my_parts.py]")
    paths = [os.path.abspath(os.path.expanduser(name)) for name in names]
    for path in paths:
        if path not in _imported:
            _import(Path(path))
    return {path: _imported[path] for path in paths}


def _import(path: Path) -> None:
    """Import a file by its name, with its folder on the search path as for a script."""
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"imports={path} must be an existing file *.py; give the path of one")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(path.stem)
    except Exception as error:
        raise ImportError(f"{path} cannot be imported: {error}") from error
    if Path(getattr(module, "__file__", None) or "").resolve() != path.resolve():
        raise ValueError(
            f"imports={path} has the name of the Python module {path.stem}; rename the file"
        )
    _imported[str(path)] = sha256
    for cls in vars(module).values():
        is_option = isinstance(cls, type) and issubclass(cls, Option)
        if is_option and not cls.__module__.startswith(f"{__package__}."):
            content = Path(inspect.getfile(cls)).read_bytes()
            _code_sha256.setdefault(cls, hashlib.sha256(content).hexdigest())
    options.cache_clear()


def code_sha256(cls: type[Option]) -> str | None:
    """Return the sha256 of the file that defines an option; None for those of this package."""
    return _code_sha256.get(cls)


def _place(cls: type) -> str:
    return f"class {cls.__name__} in {inspect.getfile(cls)}"


def _modules(group: str) -> Iterator[ModuleType]:
    module = importlib.import_module(f"{__package__}.{group}")
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if found.name[0] != "_":  # drafts, and code that several options share
            yield importlib.import_module(f"{module.__name__}.{found.name}")


def without_file(conf: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield group, name and defaults of each option that has no file under `conf`.

    Imports only groups that have such an option, since most of them import torch.
    """
    extended = {base.__module__ for cls in _code_sha256 for base in cls.__mro__}
    for group in DEFAULTS:
        described = {file.stem for file in (conf / group).glob("[!.]*.yaml")}
        sources = [*PACKAGE.glob(f"{group}.py"), *PACKAGE.glob(f"{group}/[!_]*.py")]
        sources += PACKAGE.glob(f"{group}/__init__.py")
        names = {name for file in sources for name in NAME_LINE.findall(file.read_text())}
        if names <= described and f"{__package__}.{group}" not in extended:
            continue
        for name, cls in options(group).items():
            if name not in described:
                yield group, name, {"name": name, **dataclasses.asdict(cls())}
