"""A Hydra callback that records which of its methods are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback


class Record(Callback):
    """Appends the name of each method to the file `calls`."""

    def on_run_start(self, **arguments: Any) -> None:
        record("on_run_start")

    def on_run_end(self, **arguments: Any) -> None:
        record("on_run_end")

    def on_multirun_start(self, **arguments: Any) -> None:
        record("on_multirun_start")

    def on_multirun_end(self, **arguments: Any) -> None:
        record("on_multirun_end")

    def on_job_start(self, **arguments: Any) -> None:
        record("on_job_start")

    def on_job_end(self, **arguments: Any) -> None:
        record("on_job_end")


def record(method: str) -> None:
    with open(Path("calls"), "a", encoding="utf-8") as file:
        file.write(f"{method}\n")
