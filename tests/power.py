"""Power failures: record the calls that change a folder, and build each disk they may leave.

A file keeps what was written before its fsync. Each later write is kept, lost or torn: a torn one
leaves every sector new, old or filled with garbage. A name (created, renamed, removed) is kept from
the fsync of its folder on; an earlier change of names is kept or lost as a whole, so that a rename
is atomic. What was not synced is kept or lost in any combination.
"""

from __future__ import annotations

import builtins
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

SECTOR_BYTES = 512

ROOT = 0
"""Number of the folder that is watched; further files and folders are numbered as they come."""

Fate = Enum("Fate", ["KEPT", "LOST", "TORN"])


@dataclass(frozen=True)
class Write:
    """Bytes written to a file."""

    node: int
    offset: int
    data: bytes

    def touches(self, node: int) -> bool:
        return node == self.node


@dataclass(frozen=True)
class Names:
    """Names that change at once: (folder, name, file or folder; None if removed)."""

    changes: tuple[tuple[int, str, int | None], ...]

    def touches(self, node: int) -> bool:
        return any(folder == node for folder, _, _ in self.changes)


@dataclass(frozen=True)
class Sync:
    """Fsync of a file or folder."""

    node: int


@dataclass(frozen=True)
class Promise:
    """Progress that no later power failure may undo."""

    progress: int


@dataclass(frozen=True)
class Disk:
    """Names by folder, and contents of files; a node without content is a folder."""

    names: dict[tuple[int, str], int]
    files: dict[int, bytes]

    def copy(self) -> Disk:
        return Disk(dict(self.names), dict(self.files))

    def apply(self, change: Write | Names, fate: Fate, rng: Random) -> None:
        if fate is Fate.LOST:
            return
        if isinstance(change, Names):
            for folder, name, node in change.changes:
                self.names.pop((folder, name), None)
                if node is not None:
                    self.names[folder, name] = node
            return
        first, last = change.offset, change.offset + len(change.data)
        old = self.files[change.node].ljust(last, b"\0")
        new = bytearray(old[:first] + change.data + old[last:])
        if fate is Fate.TORN:
            for start in range(first - first % SECTOR_BYTES, last, SECTOR_BYTES):
                part = slice(max(start, first), min(start + SECTOR_BYTES, last))
                kept = (new[part], old[part], rng.randbytes(part.stop - part.start))
                new[part] = rng.choice(kept)
        self.files[change.node] = bytes(new)

    def contents(self, folder: int = ROOT, path: str = ".") -> dict[str, bytes | None]:
        """Return the content of each file by its path, and None for each folder."""
        found: dict[str, bytes | None] = {path: None}
        for (parent, name), node in self.names.items():
            if parent == folder and node in self.files:
                found[f"{path}/{name}"] = self.files[node]
            elif parent == folder:
                found |= self.contents(node, f"{path}/{name}")
        return found

    def build(self, root: Path) -> None:
        for path, content in self.contents().items():
            if content is None:
                (root / path).mkdir(exist_ok=True)
            else:
                (root / path).write_bytes(content)


class Recorder:
    """In its context, the calls of this process that change the folder `root`.

    before: the folder at its beginning. changes: the calls since then. Nothing is really synced.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nodes: dict[tuple[int, int], int] = {}  # by device and inode
        self.count = itertools.count()
        self.changes: list[Write | Names | Sync | Promise] = []
        self.before = Disk({}, {})
        self._add(root)
        for path in sorted(root.rglob("*")):
            self.before.names[self._node(path.parent), path.name] = self._add(path)
            if path.is_file():
                self.before.files[self._node(path)] = path.read_bytes()

    def __enter__(self) -> Recorder:
        self.patches = ExitStack()
        self.patches.enter_context(patch.object(builtins, "open", self._wrap_open()))
        self.patches.enter_context(patch.object(os, "fsync", self._fsync))
        for name in ("mkdir", "unlink", "rename", "replace"):
            self.patches.enter_context(patch.object(os, name, self._wrap(name)))
        return self

    def __exit__(self, *error: object) -> None:
        self.patches.close()

    def promise(self, progress: int) -> None:
        self.changes.append(Promise(progress))

    def after(self) -> Disk:
        """Return the folder as it is if every change is kept."""
        disk = self.before.copy()
        for change in self.changes:
            if isinstance(change, Write | Names):
                disk.apply(change, Fate.KEPT, Random())
        return disk

    def _add(self, path: Path) -> int:
        """Number a new file or folder; the file system may reuse the inode of a removed one."""
        status = os.stat(path)
        self.nodes[status.st_dev, status.st_ino] = next(self.count)
        return self._node(path)

    def _node(self, path: Path | int) -> int:
        status = os.stat(path)
        return self.nodes.get((status.st_dev, status.st_ino), -1)

    def _fsync(self, handle: int) -> None:
        self.changes.append(Sync(self._node(handle)))

    def _name(self, *paths: tuple[Path, int | None]) -> None:
        changes = ((self._node(path.parent), path.name, node) for path, node in paths)
        self.changes.append(Names(tuple(changes)))

    def _wrap(self, name: str) -> Any:
        real = getattr(os, name)

        def call(path: Any, *rest: Any, **options: Any) -> None:
            moved = self._node(path) if name in ("rename", "replace") else None
            real(path, *rest, **options)
            path = Path(path)
            if path.is_relative_to(self.root):
                if name == "mkdir":
                    self._name((path, self._add(path)))
                elif name == "unlink":
                    self._name((path, None))
                else:
                    self._name((path, None), (Path(rest[0]), moved))

        return call

    def _wrap_open(self) -> Any:
        real, recorder = open, self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                end = os.fstat(self.fileno()).st_size
                node = recorder._node(self.fileno())
                recorder.changes.append(Write(node, end, bytes(data)))
                return super().write(data)

        def call(path: Any, mode: str = "r", buffering: int = -1, **options: Any) -> Any:
            watched = not isinstance(path, int) and Path(path).is_relative_to(self.root)
            if not watched or mode in ("r", "rb"):
                return real(path, mode, buffering, **options)
            new = not Path(path).exists()
            buffered = io.BufferedWriter(Raw(path, mode.replace("b", "")))
            if new:
                node = self._add(Path(path))
                self.before.files[node] = b""
                self._name((Path(path), node))
            return buffered if "b" in mode else io.TextIOWrapper(buffered, **options)

        return call


def disks_after_power_failure(
    recorder: Recorder, bound: int, torn: int, rng: Random
) -> Iterator[tuple[Disk, int]]:
    """Yield each disk that a power failure may leave, with the progress promised before.

    bound: of the subsets of changes that were not synced before a call, this number is drawn if
        there are more.
    torn: further draws before each call, with torn writes.
    """
    durable, pending, promised = recorder.before.copy(), list[Write | Names](), 0
    seen = set()
    for change in [None, *recorder.changes]:
        if isinstance(change, Promise):
            promised = change.progress
        elif isinstance(change, Sync):
            for each in pending:
                if each.touches(change.node):
                    durable.apply(each, Fate.KEPT, rng)
            pending = [each for each in pending if not each.touches(change.node)]
        elif change is not None:
            pending.append(change)
        for fates in _draw_fates(len(pending), bound, torn, rng):
            disk = durable.copy()
            for each, fate in zip(pending, fates, strict=True):
                disk.apply(each, fate, rng)
            key = promised, frozenset(disk.contents().items())
            if key not in seen:
                seen.add(key)
                yield disk, promised


def _draw_fates(number: int, bound: int, torn: int, rng: Random) -> Iterator[Sequence[Fate]]:
    whole = Fate.KEPT, Fate.LOST
    if 2**number <= bound:
        yield from itertools.product(whole, repeat=number)
    else:
        yield from ([fate] * number for fate in whole)
        yield from (rng.choices(whole, k=number) for _ in range(bound - 2))
    yield from (rng.choices(list(Fate), k=number) for _ in range(torn))
