"""What the runs of one process have in common, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock

import torch

assembling = Lock()
"""For whoever uses the data set in memory, or torch's global generator."""

_users = 0
"""Runs that hold `cpu_threads`."""

_number = 0
"""... of so many each."""

_changed = Condition()


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Compute with `number` CPU threads, once no run is left that wants another number.

    torch has one for the whole process, and sums of floats depend on it; a thread that has computed
    before keeps what it had until it is told.
    """
    global _users, _number
    with _changed:
        _changed.wait_for(lambda: not _users or _number == number)
        torch.set_num_threads(number)
        _users, _number = _users + 1, number
    try:
        yield
    finally:
        with _changed:
            _users -= 1
            _changed.notify_all()
