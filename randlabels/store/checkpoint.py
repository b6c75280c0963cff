"""The latest state of a run on disk: a file of `torch.save`, followed by its sha256."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..console import log
from .files import write_atomic
from .rundir import SCHEMA, RunDir

DIGEST_BYTES = 64  # of a sha256 in hex digits, which `torch.load` ignores


def save(path: Path, state: Mapping[str, Any], previous: Path | None = None) -> None:
    """Replace the checkpoint by tensors and plain values; keep its old content as `previous`."""
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, **state}, buffer)
    content = buffer.getvalue()
    write_atomic(path, content + _digest(content), previous)


def load(path: Path, config_hash: str) -> dict[str, Any] | None:
    """Return the state that `save` wrote for this config, on the CPU; None without a file.

    ValueError if the file is damaged, or belongs to another config or version.
    """
    if not path.exists():
        return None
    content = path.read_bytes()
    # torch checks no checksum: it would load a flipped bit in a weight.
    if content[-DIGEST_BYTES:] != _digest(content[:-DIGEST_BYTES]):
        raise ValueError(f"{path} is damaged: its checksum is not that of its content")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise ValueError(f"{path} must be a checkpoint of schema {SCHEMA}")
    if (other := state.get("config_hash")) != config_hash:
        raise ValueError(f"{path} belongs to config {other}, not {config_hash}")
    return state


def latest(run: RunDir, config_hash: str) -> dict[str, Any] | None:
    """Return the state that a run of this config resumes from; None to start over.

    A checkpoint that cannot be used is renamed, and the previous one is tried.
    """
    for file in (run.checkpoint, run.previous_checkpoint):
        try:
            if saved := load(file, config_hash):
                return saved
        except ValueError as error:
            kept = file.replace(file.with_suffix(".damaged"))
            instead = "starting from epoch 0"
            if file == run.checkpoint and run.previous_checkpoint.exists():
                instead = "going back to the one before"
            log.warning("%s; %s. It is kept as %s.", error, instead, kept.name)
    return None


def require_like(saved: Mapping[str, Any], template: Mapping[str, torch.Tensor], what: str) -> None:
    """Raise RuntimeError if keys, shapes or dtypes of saved tensors differ from the template's."""
    for key in sorted({*saved, *template}):
        found, wanted = (_shape(tensors.get(key)) for tensors in (saved, template))
        if found != wanted:
            raise RuntimeError(
                f"the checkpoint's {what} has {key}: {found}, where this program has {wanted}; "
                "go on with the program that began the run, or start over with force=true"
            )


def _shape(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.")
    return "nothing" if value is None else type(value).__name__


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
