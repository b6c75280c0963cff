"""Build dataclasses from plain values; unknown keys, wrong types and ranges raise a ValueError."""

import copy
import dataclasses
import math
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

IN_WORDS = {  # types of keys, as error messages name them
    "int": "a whole number",
    "int | None": "a whole number or null",
    "float": "a number",
    "float | None": "a number or null",
    "bool": "true or false",
    "str": "a text",
    "str | None": "a text or null",
    "list[int]": "a list of whole numbers such as [512,256]",
    "list[float]": "a list of numbers such as [4,8]",
    "list[str]": "a list of texts such as ['module load cuda']",
    "bool | None": "true, false or null",
}

Rule = tuple[Callable[[Any], object], str]  # whether a value holds, and what it must be, in words
POSITIVE: Rule = (lambda x: 0 < x < math.inf, "a positive number")
PROBABILITY: Rule = (lambda x: 0 <= x <= 1, "between 0 and 1")
AT_LEAST_1: Rule = (lambda n: n >= 1, "at least 1")

_typed_fields = cache(OmegaConf.structured)  # a copy takes a third of the time of a new one


@dataclass
class Option(ABC):
    """Base class of the options of all config groups: dataclasses whose fields are their keys.

    name: the text after `GROUP=` on the command line. A class without one is not an option.
    rules: of keys whose value is checked alone. Those of the base classes apply too.
    """

    name: ClassVar[str]
    rules: ClassVar[dict[str, Rule]] = {}

    def __post_init__(self) -> None:
        """Raise ValueError for the first key that breaks its rule."""
        classes = type(self).__mro__
        group = next(cls for cls in classes if Option in cls.__bases__).__name__.lower()
        for cls in reversed(classes):
            check_rules(self, vars(cls).get("rules", {}), f"{group}.")

    def pin_files(self) -> None:
        """Write checksums of the files that this option reads into its fields, to identify a run.

        ValueError if a file cannot be read, or differs from a checksum that is given.
        """
        return


def check_rules(options: Any, rules: Mapping[str, Rule], prefix: str = "") -> None:
    """Raise ValueError for the first key of `options` that breaks its rule."""
    for key, (holds, rule) in rules.items():
        if not holds(value := getattr(options, key)):
            raise ValueError(f"{prefix}{key}={value} must be {rule}")


def one_of(*values: str) -> Rule:
    """Return the rule that a key has one of these values."""
    return values.__contains__, f"{', '.join(values[:-1])} or {values[-1]}"


def to_plain(tree: DictConfig) -> dict[str, Any]:
    """Return a composed tree as nested plain values, interpolations resolved."""
    values = OmegaConf.to_container(tree, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def parse_dataclass(cls: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """Return an instance of dataclass `cls`, from values converted to the types of its fields.

    ValueError: one sentence with the key, its value and the rule that it breaks.

    prefix: what stands before its keys on the command line, such as `model.`; "" at the top level.
    """
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
        listed = ", ".join(sorted(known)) or "no keys"
        whose = f"{prefix[:-1]}={cls.name}" if prefix else "the top level"
        raise ValueError(f"{prefix}{unknown[0]} is an unknown key; {whose} takes {listed}")
    schema = copy.deepcopy(_typed_fields(cls))
    for key, value in values.items():
        try:
            schema[key] = value
        except OmegaConfBaseException as error:
            kind = next(f.type for f in dataclasses.fields(cls) if f.name == key)
            wanted = kind.__name__ if isinstance(kind, type) else str(kind)
            raise ValueError(
                f"{prefix}{key}={value} has the wrong type; give {IN_WORDS.get(wanted, wanted)}"
            ) from error
    return OmegaConf.to_object(schema)
