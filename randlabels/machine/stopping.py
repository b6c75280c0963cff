"""When runs must end early: signals, the time limit, a launch that was stopped or has died.

No step is interrupted: a run asks with `Watch` at its safe points whether to continue.
"""

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ..store.files import exclusive, is_locked

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # schedulers' too
LAUNCH = "RANDLABELS_LAUNCH"  # environment variable of workers: the launch's pid, `began`, `flag`
FAILURE = "the first failure (on_failure=stop)"  # the reason after `stop_launch`
POLL_SECONDS = 0.2  # between two checks whether a worker's launch is running
HEARTBEAT_SECONDS = 10.0
RESERVED_SECONDS = 10.0  # of a time limit for the last checkpoint, or a fifth of it if that is less


class Interrupted(Exception):
    """Raised at a safe point; the text names the reason."""


@dataclass
class _Here:
    """State of this process."""

    began: float = field(default_factory=lambda: time.monotonic())  # of the command
    received: signal.Signals | None = None  # the first one
    flag: Path | None = None  # a file that this launch locks, and removes when a signal comes
    followed: Path | None = None  # in a worker, the flag of its launch
    stopped: str | None = None  # why a run of this process was stopped

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; Ctrl-C after another signal ends the process at once."""
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
        if self.flag is not None:
            self.flag.unlink(missing_ok=True)


_here = _Here()


def begin() -> None:
    """Start the time limit of a command, and forget earlier signals."""
    global _here
    _here = _Here()


@contextmanager
def listening() -> Iterator[None]:
    """Note SIGNALS instead of dying of them, and restore earlier handlers at the end."""
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
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
    """Do as `listening`; workers that `follow` stop when this process was asked to or has died."""
    with tempfile.TemporaryDirectory(prefix="randlabels-") as folder, listening():
        flag = Path(folder, "running")
        with exclusive(flag):
            _here.flag = flag
            os.environ[LAUNCH] = f"{os.getpid()} {_here.began} {flag}"
            try:
                yield
            finally:
                _here.stopped = reason(None)  # a failure is known from the folder alone
                _here.flag = None
                flag.unlink(missing_ok=True)
                del os.environ[LAUNCH]


def follow() -> None:
    """Follow the launch that LAUNCH names from now on; do nothing in any process but its workers.

    Signals are noted until the process ends: a Ctrl-C, which the terminal sends to all processes,
    must not kill a worker that waits for its next run.
    """
    pid, *rest = os.environ.get(LAUNCH, "").split(" ", 2)
    if _here.followed or pid in ("", str(os.getpid())):
        return
    _here.began, _here.followed = float(rest[0]), Path(rest[1])
    for number in SIGNALS:
        signal.signal(number, _here.note)


def stop_launch() -> None:
    """End the launch of this process, or that which it follows: its runs stop as by SIGTERM."""
    if flag := _here.flag or _here.followed:
        with contextlib.suppress(OSError):  # the launch has ended
            flag.with_name("failed").touch()


def reason(time_limit: float | None, step: float = 0.0) -> str | None:
    """Return why to stop now, in words; None to continue.

    time_limit: seconds of the command. step: expected seconds until the next call.
    """
    if _here.received:
        return _here.received.name
    if _here.stopped:
        return _here.stopped
    if _here.followed and not is_locked(_here.followed):
        return "the end of its launch"
    if (flag := _here.flag or _here.followed) and flag.with_name("failed").exists():
        return FAILURE
    return f"time_limit={time_limit:g}" if is_out_of_time(time_limit, step) else None


def is_out_of_time(time_limit: float | None, step: float) -> bool:
    if time_limit is None:
        return False
    reserved = min(RESERVED_SECONDS, time_limit / 5) + 2 * step
    return time.monotonic() > _here.began + time_limit - reserved


def exit_code() -> int:
    """Return the exit code of a process that stopped: 130 after Ctrl-C, 1 after FAILURE, or 143."""
    if _here.stopped == FAILURE:
        return 1
    return 130 if _here.received == signal.SIGINT else 143


class Watch:
    """Call at the safe points of a run to stop it where it must; `beats` show that it is alive."""

    def __init__(self, time_limit: float | None, beats: Sequence[Callable[[], None]]) -> None:
        self.time_limit, self.beats = time_limit, beats
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
        limited = is_out_of_time(self.time_limit, step)
        if not (_here.received or limited) and now - self.polled < POLL_SECONDS:
            return
        self.polled = now
        if found := reason(self.time_limit, step):
            _here.stopped = found  # for a shorter step, some time would still be left
            raise Interrupted(found)
