"""Locks on files: the kernel's, which die with their holders, or a claim where there are none.

Some network file systems have no kernel locks. There, the locked file names its holder, who counts
as alive while its process lives, or, seen from another host, while the file is touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil
from filelock import FileLock, Timeout

from ..console import warn_once
from .files import write_atomic

NO_KERNEL_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of `flock` on file systems that lack it."""

STALE_SECONDS = 120.0  # twelve times `stopping.HEARTBEAT_SECONDS`

SETTLING_SECONDS = 0.1  # in which another process's claim becomes visible

POLL_SECONDS = 0.05


@contextlib.contextmanager
def exclusive(path: Path, timeout: float = 0) -> Iterator[None]:
    """Hold the lock of `path`, waiting for it up to `timeout` seconds.

    Raises:
        filelock.Timeout: another process holds it.
    """
    with open(path, "ab") as file:
        kernel = is_flocked(file.fileno()) is not None
    if kernel:
        with FileLock(path, timeout=timeout):
            yield
        return
    warn_once(
        f"The file system of {path.parent.parent} has no locks; do not execute the same runs on "
        "two machines at once."
    )
    _claim(path, timeout)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # its folder was moved
            os.truncate(path, 0)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock of `path`; reading rights are enough to ask."""
    try:
        with open(path, "rb") as file:
            return is_held(file.fileno())
    except FileNotFoundError:
        return False


def hold(file: IO[bytes]) -> None:
    """Lock an open file until `release`, or the end of this process."""
    file.write(_identity().encode())
    file.flush()
    with _kernel_locks_suppressed():
        fcntl.flock(file, fcntl.LOCK_EX)


def release(file: IO[bytes]) -> None:
    """Undo `hold`; safe in a signal handler."""
    os.truncate(file.fileno(), 0)
    with _kernel_locks_suppressed():
        fcntl.flock(file, fcntl.LOCK_UN)


def is_held(handle: int) -> bool:
    """Whether another process holds the lock of an open file."""
    locked = is_flocked(handle)
    return _is_claimed(handle) if locked is None else locked


def is_flocked(handle: int) -> bool | None:
    """Whether another process holds the kernel's lock of an open file; None if it has none.

    Asking takes the lock for a moment, shared, so that several may ask at once.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in NO_KERNEL_LOCKS:
            return None
        raise
    fcntl.flock(handle, fcntl.LOCK_UN)
    return False


@contextlib.contextmanager
def _kernel_locks_suppressed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_KERNEL_LOCKS:
            raise


def _claim(path: Path, timeout: float) -> None:
    """Write this process's name into the file, unless its holder lives.

    Of two processes that claim it at once, the later one overwrites the earlier one, which sees
    that when it reads the file again.
    """
    deadline = time.monotonic() + timeout
    while True:
        if not is_locked(path):
            write_atomic(path, _identity())
            time.sleep(SETTLING_SECONDS)
            if path.read_text() == _identity():
                return
        if time.monotonic() >= deadline:
            raise Timeout(str(path))
        time.sleep(POLL_SECONDS)


def _is_claimed(handle: int) -> bool:
    claim = os.pread(handle, 1000, 0).decode(errors="replace").split("\n")
    if len(claim) != 3:
        return False
    host, pid, started = claim
    if host == socket.gethostname():
        return _start_time(int(pid)) == started
    return time.time() - os.fstat(handle).st_mtime < STALE_SECONDS


def _identity() -> str:
    """Three lines: the host, this process's id and when it started, since ids are reused."""
    return f"{socket.gethostname()}\n{os.getpid()}\n{_start_time(os.getpid())}"


def _start_time(pid: int) -> str | None:
    """Of a process that lives; None of one that has ended, also if its parent has not noticed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return f"{process.create_time():.2f}"
    return None
