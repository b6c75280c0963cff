"""Files that are replaced as a whole or not at all, and files that are locked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path


def write_atomic(path: Path, data: bytes | str, previous: Path | None = None) -> None:
    """Replace the content of `path` as a whole: a reader, or a crash, sees the old or the new.

    The old content is kept as `previous`; a crash may then leave it there alone. An OSError
    names `path`.
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
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def locked(handle: int) -> bool:
    """Whether somebody else holds the lock of an open file.

    Asking takes it for a moment, shared, so that others may ask too; no right to write is needed.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(handle, fcntl.LOCK_UN)
    return False
