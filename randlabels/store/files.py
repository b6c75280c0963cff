"""Files that are replaced as a whole or not at all, folders that survive a power failure, locks.

Locks are the kernel's, which die with their holders. On network file systems without them, a marker
names the holder, who counts as alive while its process lives, or, seen from another host, while the
locked file is touched.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import time
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from ..console import warn_once

NO_KERNEL_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # of `flock`
STALE_SECONDS = 120.0  # twelve times `stopping.HEARTBEAT_SECONDS`


def write_atomic(path: Path, data: bytes | memoryview | str, previous: Path | None = None) -> None:
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


def exclusive(path: Path, timeout: float = 0) -> BaseFileLock:
    """Return the lock of `path`; entering it waits for `timeout` seconds, or raises Timeout."""
    open(path, "ab").close()
    if _is_flocked(path) is not None:
        return FileLock(path, timeout=timeout)
    warn_once(
        f"The file system of {path.parent.parent} has no locks; do not execute the same runs on "
        "two machines at once."
    )
    _is_marked(path)  # removes the marker of a holder that has died
    return SoftFileLock(_marker(path), timeout=timeout)


def is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock; reading rights are enough to ask."""
    locked = _is_flocked(path)
    return _is_marked(path) if locked is None else locked


def _is_flocked(path: Path) -> bool | None:
    """Return whether a process holds the kernel's lock; None if the file system has none."""
    try:
        with open(path, "rb") as file:  # shared, so that several may ask at once
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in NO_KERNEL_LOCKS:
            return None
        if error.errno != errno.ENOENT:
            raise
    return False


def _is_marked(path: Path) -> bool:
    if not _marker(path).exists():
        return False
    lock = SoftFileLock(_marker(path), timeout=0)
    try:
        with lock:
            return False
    except (Timeout, PermissionError) as held:
        silent = time.time() - path.stat().st_mtime > STALE_SECONDS
        if silent and "cannot probe" in str(held):  # filelock's words for a holder elsewhere
            lock.break_lock()
            return False
        return True


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")
