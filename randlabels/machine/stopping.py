"""When runs must end early: signals, the time limit, a launch that was stopped or has died.

No step is interrupted. A signal is noted, and a run asks with `Watch` at its safe points whether to
continue. It ends with a checkpoint, so that no step is lost.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, and what schedulers send before a kill."""

LAUNCH = "RANDLABELS_LAUNCH"
"""Environment variable of worker processes: pid of the launch, when it began (seconds of
`time.monotonic`), and a file that has content while it is running."""

FAILURE = "the first failure (on_failure=stop)"
"""The reason where `stop_launch` ended a launch."""

POLL_SECONDS = 0.2  # between two checks whether a worker's launch is running

HEARTBEAT_SECONDS = 10.0

RESERVED_SECONDS = 10.0
"""Seconds of a time limit that are left for the last checkpoint and the end of the process, or
a fifth of the limit if that is less."""


class Interrupted(Exception):
    """Raised at a safe point; the text names the reason."""


@dataclass
class _Here:
    """State of this process.

    began: when the command began, in seconds of `time.monotonic`.
    received: the first signal.
    flag: file with content while this launch is running.
    followed: in a worker, the same file and the pid of the worker's parent.
    stopped: why a run of this process was stopped, if one was.
    """

    began: float = field(default_factory=lambda: time.monotonic())
    received: signal.Signals | None = None
    flag: int | None = None
    followed: tuple[int, int] | None = None
    stopped: str | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; Ctrl-C after another signal ends the process at once."""
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
        if self.flag is not None:
            os.truncate(self.flag, 0)

    def launch_is_gone(self) -> bool:
        """Return whether the launch that this worker follows has ended or was asked to stop."""
        if self.followed is None:
            return False
        file, parent = self.followed
        has_died = os.getppid() != parent
        launch = multiprocessing.parent_process()
        if launch and launch.sentinel is not None:  # where a forkserver stands between the two
            has_died = not launch.is_alive()
        return has_died or os.fstat(file).st_size == 0


_here = _Here()


def begin() -> None:
    """Start the time limit of a command, and forget earlier signals."""
    global _here
    _here = _Here()


@contextmanager
def listening() -> Iterator[None]:
    """Note SIGNALS instead of dying of them, and restore earlier handlers at the end.

    Outside of the main thread, where Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, _here.note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def launching() -> Iterator[None]:
    """Do as `listening`, for a process with workers that `follow` it.

    They stop when this process was asked to, and when it has died.
    """
    with tempfile.NamedTemporaryFile(prefix="randlabels-", buffering=0) as file, listening():
        file.write(b"The launch is running.")
        _here.flag = file.fileno()
        os.environ[LAUNCH] = f"{os.getpid()} {_here.began} {file.name}"
        try:
            yield
        finally:
            _here.stopped = reason(None)  # a failure shows in the flag alone
            _here.flag = None
            os.truncate(file.fileno(), 0)
            del os.environ[LAUNCH]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C to the end of this context; processes started in it never see it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def follow(launch: str | None = None) -> None:
    """Follow a launch from now on, in a worker process of it; do nothing in any other process.

    launch: the content of LAUNCH in the parent; None to read this process's own, which counts if
        the parent set it.

    The handlers of `listening` stay until the process ends. The terminal sends a Ctrl-C to all
    processes, and it must not kill a worker that waits for its next run: joblib would end the
    others.
    """
    if _here.followed is not None:
        return
    pid, _, rest = (launch or os.environ.get(LAUNCH, "")).partition(" ")
    if not launch and pid != str(os.getppid()):  # not a worker of this launch
        return
    began, _, file = rest.partition(" ")
    _here.began = float(began)
    try:
        _here.followed = os.open(file, os.O_RDWR), os.getppid()
    except FileNotFoundError:
        _here.stopped = "the end of its launch"
    for number in SIGNALS:
        signal.signal(number, _here.note)


def stop_launch() -> None:
    """End the launch of this process, or that which it follows: its runs stop as by SIGTERM."""
    flag = _here.followed[0] if _here.followed else _here.flag
    if flag is not None:
        os.truncate(flag, 0)


def reason(time_limit: float | None, step: float = 0.0) -> str | None:
    """Return why to stop now, in words; None to continue.

    time_limit: seconds from the beginning of the command, null for none.
    step: expected seconds until the next call.
    """
    if _here.received:
        return _here.received.name
    if _here.stopped:
        return _here.stopped
    if _here.launch_is_gone():
        return "the end of its launch"
    if _here.flag is not None and os.fstat(_here.flag).st_size == 0:
        return FAILURE
    if time_limit is not None:
        left = _here.began + time_limit - time.monotonic()
        if left < min(RESERVED_SECONDS, time_limit / 5) + 2 * step:
            return f"time_limit={time_limit:g}"
    return None


def exit_code() -> int:
    """Return the exit code of a process that stopped early: 1 after a failed run, 130 after Ctrl-C,
    else 143."""
    if _here.stopped == FAILURE:
        return 1
    return 130 if _here.received == signal.SIGINT else 143


class Watch:
    """Call at the safe points of a run to stop it where it must, and to show that it is alive.

    beats: called every HEARTBEAT_SECONDS.
    """

    def __init__(self, time_limit: float | None, beats: Sequence[Callable[[], None]]) -> None:
        self.time_limit = time_limit
        self.beats = beats
        self.asked = self.beaten = time.monotonic()
        self.polled = -POLL_SECONDS

    def __call__(self) -> None:
        """Take a microsecond, and raise Interrupted if the run must stop here."""
        now = time.monotonic()
        step, self.asked = now - self.asked, now
        if now - self.beaten >= HEARTBEAT_SECONDS:
            for beat in self.beats:
                beat()
            self.beaten = now
        if _here.received is None and self.time_limit is None and now - self.polled < POLL_SECONDS:
            return
        self.polled = now
        if found := reason(self.time_limit, step):
            _here.stopped = found  # for a shorter step, some time would still be left
            raise Interrupted(found)
