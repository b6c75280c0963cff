"""Build dataclasses from plain values; unknown keys and wrong types raise a ValueError."""

import copy
import dataclasses
from abc import ABC
from collections.abc import Mapping
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

_typed_fields = cache(OmegaConf.structured)  # a copy takes a third of the time of a new one


@dataclass
class Option(ABC):
    """Base class of the options of all config groups: dataclasses whose fields are their keys.

    name: the text after `GROUP=` on the command line. A class without one is not an option.
    """

    name: ClassVar[str]

    def pin_files(self) -> None:
        """Write checksums of the files that this option reads into its fields, to identify a run.

        ValueError if a file cannot be read, or differs from a checksum that is given.
        """
        return


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
