"""A large file of named parts, written anew from the parts of its old self that did not change."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

CHUNK = 16 << 20
"""Bytes copied at once where the kernel cannot copy by itself."""

Places = Mapping[str, tuple[int, int]]
"""Offset and length of each part, by name, in bytes."""


def rewrite(
    path: Path, header: bytes, names: list[str], part: Callable[[int], bytes], old: Places
) -> Places:
    """Replace `path` as a whole by a header and the parts `names`; where each stands then.

    `old` tells where parts stand in the present file, from which they are copied; `part` makes
    the others, given their position. The file is left alone where nothing changed.
    """
    if names and list(old) == names:
        return old
    places: dict[str, tuple[int, int]] = {}
    temporary = path.with_name(f".{path.name}.tmp")  # one writer at a time holds the lock
    with open(temporary, "wb") as new, open(path if old else os.devnull, "rb") as source:
        new.write(header)
        for position, name in enumerate(names):
            start = new.tell()
            if name in old:
                _copy(source, *old[name], new)
            else:
                new.write(part(position))
            places[name] = start, new.tell() - start
    os.replace(temporary, path)
    return places


def _copy(source: BinaryIO, start: int, length: int, new: BinaryIO) -> None:
    """Append a part of a file to another, by the kernel where it can."""
    new.flush()
    copied = 0
    with contextlib.suppress(OSError, AttributeError):
        while copied < length:
            place = start + copied
            copied += os.copy_file_range(source.fileno(), new.fileno(), length - copied, place)
    new.seek(0, os.SEEK_END)
    source.seek(start + copied)
    while copied < length:
        copied += new.write(source.read(min(CHUNK, length - copied)))


def status_of(path: Path | None) -> list[int] | None:
    """Time and size of a file, by which a change is noticed; None where there is none."""
    try:
        if path is None:
            return None
        status = path.stat()
    except FileNotFoundError:
        return None
    return [status.st_mtime_ns, status.st_size]
