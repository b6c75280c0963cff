"""Files that are replaced as a whole or not at all, and folders that survive a power failure."""

import contextlib
import os
import secrets
from pathlib import Path


def write_atomic(path: Path, data: bytes | str, previous: Path | None = None) -> None:
    """Replace the content of `path` as a whole: readers and crashes see the old or the new content.

    The old content is kept as `previous`; after a crash, it may be there alone. The new content is
    on disk when this returns. An OSError names `path`, whose content is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None:
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, previous)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        raise
    _sync_names(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents; their names are on disk when this returns."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _sync_names(folder.parent)


def _sync_names(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
