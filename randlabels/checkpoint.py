"""The latest state of a run on disk, from which it resumes as if never interrupted."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from . import rundir


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint as a whole. `state` holds tensors and plain Python values only."""
    buffer = io.BytesIO()
    torch.save({"schema": rundir.SCHEMA, **state}, buffer)
    rundir.write_atomic(path, buffer.getvalue())


def load(path: Path, config_hash: str) -> dict[str, Any] | None:
    """The state that `save` wrote for this config, on the CPU; None where there is none.

    Raises:
        ValueError: the content is damaged, or of another config.
        OSError: the file cannot be read; it may be whole.
    """
    try:
        content = io.BytesIO(path.read_bytes())
    except FileNotFoundError:
        return None
    try:
        with zipfile.ZipFile(content) as archive:  # torch does not look at the checksums
            if broken := archive.testzip():
                raise ValueError(f"{path} is damaged: checksum of {broken}")
        content.seek(0)
        state = torch.load(content, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged: {reason}") from error
    if state["config_hash"] != config_hash:
        raise ValueError(
            f"{path} belongs to config {state['config_hash'][:8]}, not {config_hash[:8]}"
        )
    return state
