"""One process works on a run, on file systems with and without kernel locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import Timeout

from randlabels.store import files
from randlabels.store.rundir import RunDir

from .conftest import TINY, Cli, only_run, wait_until

ROOT = Path(__file__).parent.parent

HOLDER = """
import errno, fcntl, os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
def refuse(*arguments):
    raise OSError({number}, os.strerror({number}))
if {number}:
    fcntl.flock = refuse
from randlabels.store import files
{code}
"""

HOLD = "with files.exclusive(Path({path!r})): time.sleep(60)"

RUN = "from randlabels import run; sys.argv = ['randlabels', *{arguments!r}]; run.main()"


def fail_to_lock(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `flock` fail as on a file system without locks; 0 leaves it as it is."""

    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    if number:
        monkeypatch.setattr(fcntl, "flock", refuse)
    files.warn_once.cache_clear()


@contextmanager
def start_other_process(number: int, code: str, folder: Path) -> Iterator[None]:
    """Start another process on such a file system; it is killed at the end."""
    source = HOLDER.format(root=str(ROOT), number=number, code=code)
    command = [sys.executable, "-c", source]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as other:
        try:
            yield
        finally:
            other.kill()


@pytest.mark.parametrize("number", [0, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_lock_is_held_by_one_process_and_free_once_that_is_killed(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_lock(number, monkeypatch)
    path = tmp_path / ".lock"
    assert not files.is_locked(path)
    with start_other_process(number, HOLD.format(path=str(path)), tmp_path):
        wait_until(lambda: files.is_locked(path))
        with pytest.raises(Timeout), files.exclusive(path, timeout=0.3):
            pass
    assert not files.is_locked(path)
    with files.exclusive(path):
        pass
    assert not files.is_locked(path)


def test_missing_locks_are_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    fail_to_lock(errno.ENOSYS, monkeypatch)
    for run in "ab":
        (tmp_path / run).mkdir()
        with files.exclusive(tmp_path / run / ".lock"):
            pass
    assert capsys.readouterr().out.count("has no locks; do not execute the same runs on two") == 1


def test_marker_of_another_host_is_stale_without_a_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_lock(errno.ENOSYS, monkeypatch)
    path = tmp_path / ".lock"
    path.touch()
    (tmp_path / ".lock.holder").write_text("1\nelsewhere\n0\n")
    assert files.is_locked(path)
    with pytest.raises(Timeout), files.exclusive(path):
        pass
    old = time.time() - files.STALE_SECONDS - 1
    os.utime(path, (old, old))
    with files.exclusive(path):
        assert files.is_locked(path)
    assert not files.is_locked(path)


@pytest.mark.slow
def test_run_killed_on_a_file_system_without_locks_resumes(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*TINY[:4], "epochs=300", "threads=1", "checkpoint_every=0"]
    fail_to_lock(errno.ENOSYS, monkeypatch)
    with start_other_process(errno.ENOSYS, RUN.format(arguments=arguments), tmp_path):
        wait_until(lambda: list(tmp_path.glob("runs/*/*/checkpoint.prev.pt")))
        run = RunDir(only_run(tmp_path))
        assert run.state() == "running"
    assert run.state() == "interrupted"
    resumed = cli(*arguments)
    assert resumed.code == 0 and "Resuming" in resumed.out and run.state() == "done"
