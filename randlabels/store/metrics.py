"""The records of a run: one JSON object per epoch in `metrics.jsonl`. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

Record = dict[str, float | None]
"""One epoch. `epoch` is 0-based; a metric that was not measured is None."""

MEASURED = (
    "train_loss",  # against the labels trained on, as is
    "train_acc",
    "test_loss",  # against the true test labels, as is
    "test_acc",
    "test_loss_noisy",  # against the test labels corrupted as the training labels are, as is
    "test_acc_noisy",
    "train_acc_true",  # against the true training labels
    "train_acc_clean",  # against the labels trained on, over the unchanged part
    "train_acc_corrupted",  # likewise, over the changed part
)
"""All measured metrics, in the order of the log."""

LOSSES = tuple(key for key in MEASURED if "_loss" in key)
"""Means over the set of the configured loss, without weight decay."""

ACCURACIES = tuple(key for key in MEASURED if "_acc" in key)
"""Fractions in 0..1."""

KEYS = ("epoch", "lr", *MEASURED, "seconds", "images_per_second")
"""All keys of a record: `seconds` is the epoch's wall clock with all evaluations,
`images_per_second` the speed of its training part."""

SENSITIVITY = ("loss_sensitivity", "loss_sensitivity_gini", "critical_sample_ratio")
"""Keys that a record has besides where `sensitivity` is above 0, over as many training images: the
mean over images and evaluations so far of ‖∂loss/∂x‖₁, pixels x in 0..1; the Gini coefficient
(0..1) of the images' means over the evaluations; the share (0..1) of critical samples."""


def encode(record: Record) -> str:
    """One line of `metrics.jsonl`, without its newline. ValueError for NaN and infinities."""
    return json.dumps(record, allow_nan=False)


def encode_all(records: Sequence[Record]) -> str:
    """The content of `metrics.jsonl`."""
    return "".join(encode(record) + "\n" for record in records)


def read(path: Path) -> tuple[list[Record], bool]:
    """The records in `path`, and whether a torn last line was dropped.

    A missing file has no records. A broken line before the last one is damage, not an
    interrupted write: ValueError.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return [], False
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("no newline")
            records.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                return records, True
            raise ValueError(f"{path}, line {number} is damaged: {error}") from error
    return records, False


def epochs_to_fit(records: Sequence[Record], threshold: float) -> int | None:
    """Number of epochs (1-based) until train_acc reaches `threshold` (0..1); None if never."""
    for record in records:
        accuracy = record["train_acc"]
        if accuracy is not None and accuracy >= threshold:
            return int(record["epoch"] or 0) + 1
    return None


def best(records: Sequence[Record]) -> dict[str, float | None]:
    """Each metric's best value over the epochs: the largest accuracy, the smallest loss."""
    found: dict[str, float | None] = {}
    for key in MEASURED:
        values = [value for record in records if (value := record[key]) is not None]
        choose = max if key in ACCURACIES else min
        found[key] = choose(values) if values else None
    return found


def final(records: Sequence[Record]) -> dict[str, float | None]:
    """Each metric's value in the last epoch that measured any."""
    measured = [r for r in records if r["train_acc"] is not None]
    return {key: measured[-1][key] if measured else None for key in MEASURED}


def console_line(record: Record, *, noisy: bool) -> str:
    """The original code's log line (train.py), such as

    `000: Acc-tr:  58.49, Acc-val:  56.92, L-tr: 1.1574, L-val: 1.1857`

    with accuracies in % and the test set under its true labels; `noisy` adds the accuracy
    on the corrupted test labels, where there are any. An epoch that was not evaluated says so.
    """
    if record["train_acc"] is None:
        return f"{int(record['epoch'] or 0):03d}: not evaluated"

    def percent(key: str) -> str:
        return f"{100 * (record[key] or 0.0):6.2f}"

    def loss(key: str) -> str:
        return f"{record[key] or 0.0:6.4f}"

    line = (
        f"{int(record['epoch'] or 0):03d}: Acc-tr: {percent('train_acc')}, "
        f"Acc-val: {percent('test_acc')}, L-tr: {loss('train_loss')}, L-val: {loss('test_loss')}"
    )
    if noisy and record["test_acc_noisy"] is not None:
        return f"{line}, Acc-noisy: {percent('test_acc_noisy')}"
    return line
