"""Execute a command many times, and kill it at chosen places: `python -m tests.killing FOLDER`.

This process has imported everything once, and each execution is a fork of it, which saves the
seconds that Python takes to start. One line of JSON on standard input describes an execution, and
one line answers how it ended: by its exit or by SIGKILL.

arguments: those of `randlabels.run`; or one config as a mapping, for `execute` alone.
seconds, number: kill it `seconds` after the call number `number` that commits a file
    (`os.fsync`, `os.replace`); number 0 is the start. seconds=null: never.
call, after: let it kill itself before, or after, this call (1-based). call=null: never.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class ForkServer:
    """The process above; `execute` returns {"signal": 9 or 0, "code", "calls"} of one execution."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.killing", str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def execute(self, arguments: Any, **end: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"arguments": arguments, **end}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()


def main() -> None:
    import pandas  # noqa: F401
    import torch

    from randlabels import execute, experiment, run  # noqa: F401  imported once, for all forks
    from randlabels.config import parse

    # A fork of a process with OpenMP threads would wait for them for ever.
    torch.set_num_threads(1)
    run.prepare_hydra()
    data = experiment.load(parse({"dataset": {"name": "digits"}}).dataset)
    assert data.sha256 and data.moments  # computed once
    torch.optim.SGD([torch.zeros(1)])  # the first one imports much
    os.environ["PATH"] = ""  # no fork finds git, which would cost it a process
    answers = os.fdopen(os.dup(1), "w")
    os.chdir(sys.argv[1])
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    for line in sys.stdin:
        order = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _execute(order, writer)
        os.close(writer)
        if order.get("seconds") is not None:
            for _ in range(order["number"]):
                os.read(reader, 1)  # returns at once when the fork has ended
            time.sleep(order["seconds"])
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        calls = os.read(reader, 65536).strip(b".")
        os.close(reader)
        ended = {"signal": status & 127, "code": status >> 8, "calls": int(calls or 0)}
        answers.write(json.dumps(ended) + "\n")
        answers.flush()


def _execute(order: dict[str, Any], writer: int) -> None:
    """Execute one command in the forked process; never returns."""
    code, calls = 1, 0

    def count_calls(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            os.write(writer, b".")
            if calls == order.get("call") and not order["after"]:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*arguments, **options)
            finally:
                if calls == order.get("call"):
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    os.fsync, os.replace = count_calls(os.fsync), count_calls(os.replace)
    try:
        code = _command(order["arguments"])
    finally:
        os.write(writer, str(calls).encode())
        os._exit(code)


def _command(arguments: Any) -> int:
    from randlabels import run
    from randlabels.config import parse
    from randlabels.execute import execute

    if isinstance(arguments, dict):
        config = parse(arguments)
        execute([config])
        return int(config.run.state() != "done")
    sys.argv = ["randlabels", *arguments]
    try:
        run.main()
    except SystemExit as end:
        return int(end.code or 0) if not isinstance(end.code, str) else 1
    return 0


if __name__ == "__main__":
    main()
