"""The config groups and their options, found in the modules that implement them.

A group is a module or package of this one, and an option of it is a dataclass there that sets
`name`: its fields are the option's keys and its methods do the work.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import pkgutil
import re
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent

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
"""The config groups that define a run, and the option of each that no config need name."""

REQUIRED = {
    "dataset": ("root", "load"),
    "corruption": ("seed", "relabel", "transition"),
    "model": ("lr", "build or solve"),
}
"""The key, and the methods, that each option of a group must have."""


@cache
def options(group: str) -> dict[str, type]:
    """The options of a group by name: every dataclass with a `name` in its module or package."""
    found: dict[str, type] = {}
    for module in _modules(group):
        for cls in vars(module).values():
            if dataclasses.is_dataclass(cls) and isinstance(cls, type) and hasattr(cls, "name"):
                first = found.setdefault(cls.name, cls)
                if first is not cls:
                    raise ValueError(
                        f"{group}={cls.name} is class {first.__name__} in {inspect.getfile(first)} "
                        f"and class {cls.__name__} in {inspect.getfile(cls)}; give one another name"
                    )
    for name, cls in found.items():
        _check(f"{group}={name}", cls, *REQUIRED.get(group, ()))
    return found


def located(error: Exception, file: str) -> str:
    """What was raised, after the place in `file` that led there, for whoever wrote the file."""
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == file]
    place = f"{file}, line {lines[-1]}" if lines else file
    return f"{place}: {type(error).__name__}: {error}"


def _check(option: str, cls: type, key: str | None = None, *methods: str) -> None:
    """Refuse an option without a key or method of its group, or with a key without a default."""
    fields = dataclasses.fields(cls)
    bare = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    if bare:
        raise ValueError(f"{option} has the key {bare[0]} without a default; give it one")
    if key is not None and key not in {f.name for f in fields}:
        raise ValueError(
            f"{option} has no key {key}; class {cls.__name__} must have one, with its type"
        )
    for method in methods:
        if not any(hasattr(cls, name) for name in method.split(" or ")):
            raise ValueError(f"{option} has no method {method}; class {cls.__name__} must have one")
    declared = {"name"}.union(*map(inspect.get_annotations, cls.__mro__))
    for key, value in vars(cls).items():
        if key[0] != "_" and key not in declared:
            if value is None or isinstance(value, int | float | str | list | tuple | dict):
                raise ValueError(
                    f"{option} has {key} = {value!r} without a type, which makes it no key; write "
                    f"{key}: {type(value).__name__} = {value!r}, or with ClassVar if it is none"
                )


def _modules(group: str) -> Iterator[ModuleType]:
    module = importlib.import_module(f"{__package__}.{group}")
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if found.name[0] != "_":  # such a file holds no option
            yield _imported(f"{module.__name__}.{found.name}")


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        spec = importlib.util.find_spec(name)
        raise ValueError(located(error, str(spec and spec.origin))) from error


def without_file(conf: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Group, name and defaults of each option that has no file under `conf`.

    Only the modules of such options are imported, since importing one may take torch along.

    Raises:
        ValueError: a file there does not say of which class its keys are, or a class is none.
    """
    for group in DEFAULTS:
        first = [*HERE.glob(f"{group}.py"), *HERE.glob(f"{group}/__init__.py")]
        files = [*first, *sorted(HERE.glob(f"{group}/[!_]*.py"))]
        source = {name: file for file in files for name in _declared(file)}
        for written in sorted((conf / group).glob("[!.]*.yaml")):
            name = written.stem
            _check_name(written, name if source.pop(name, None) else None)
        for name, file in source.items():
            if name not in options(group):
                raise ValueError(
                    f"{file}: the class named {name!r} is no dataclass; put @dataclass above it"
                )
            defaults = dataclasses.asdict(options(group)[name]())
            yield group, name, {"name": name, **defaults}


def _check_name(file: Path, name: str | None) -> None:
    """Refuse a file of keys without the line `name: …`, of class `name` if it is called so."""
    line = rf"^name: {name}\b" if name else r"^[^#\n]*\b(name|defaults)\b[\"']?\s*:"
    if not re.search(line, file.read_text(), re.M):
        whose = "" if name else ", where X is the option whose keys these are"
        raise ValueError(f"{file} must have the line `name: {name or 'X'}`{whose}; add it")


def unnamed(group: str, name: str) -> Path | None:
    """The source file `name` among those of a group, if no class in it sets that name."""
    if group not in DEFAULTS:
        return None
    file = HERE / group / f"{name}.py"
    return file if file.is_file() and name not in _declared(file) else None


def _declared(file: Path) -> list[str]:
    """The `name` of each class in a source file that sets one, without importing it."""
    names = []
    try:
        source = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    except SyntaxError as error:
        raise ValueError(f"{file}, line {error.lineno}: {error.msg}") from error
    for cls in source.body:
        for line in cls.body if isinstance(cls, ast.ClassDef) else []:
            if isinstance(line, ast.Assign | ast.AnnAssign) and isinstance(
                line.value, ast.Constant
            ):
                targets = line.targets if isinstance(line, ast.Assign) else [line.target]
                if "name" in map(ast.unparse, targets):
                    names.append(str(line.value.value))
    return names
