"""The records of a run: one JSON object per epoch in `metrics.jsonl`. Imports no torch."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

Record = dict[str, float | None]  # one epoch; a metric that was not measured is None or absent

BETTER: dict[str, Callable[..., float]] = {
    "train_loss": min,  # against the labels trained on, as is
    "train_acc": max,
    "test_loss": min,  # against the true test labels, as is
    "test_acc": max,
    "test_loss_noisy": min,  # against the test labels corrupted as the training labels are, as is
    "test_acc_noisy": max,
    "train_acc_true": max,  # against the true training labels
    "train_acc_clean": max,  # against the labels trained on, over the unchanged part
    "train_acc_corrupted": max,  # against the labels trained on, over the changed part
}
"""The better of two values of a metric: min or max. A metric not listed here has no best value."""

MEASURED = tuple(BETTER)  # the metrics that every run measures, in the order of the log
LOSSES = tuple(key for key in MEASURED if "_loss" in key)  # means of the loss without weight decay
# The keys that every record has, in their order: `seconds` is the epoch's wall clock with all
# evaluations, `images_per_second` the speed of its training part.
KEYS = ("epoch", "lr", *MEASURED, "seconds", "images_per_second")

SENSITIVITY = ("loss_sensitivity", "loss_sensitivity_gini", "critical_sample_ratio")
"""Further keys of a run with `sensitivity` above 0, measured on that many training images: the
mean over images and evaluations so far of ‖∂loss/∂x‖₁, pixels x in 0..1; the Gini coefficient
(0..1) of the images' means over the evaluations; the share (0..1) of critical samples."""


def encode(record: Record) -> str:
    """Return one line of `metrics.jsonl` without its newline; ValueError for NaN and infinities."""
    return json.dumps(record, allow_nan=False)


def encode_all(records: Sequence[Record]) -> str:
    """Return the content of `metrics.jsonl`."""
    return "".join(encode(record) + "\n" for record in records)


def read(path: Path) -> tuple[list[Record], bool]:
    """Return the records in `path`, if it exists, and whether a torn last line was dropped.

    ValueError if an earlier line is broken: an interrupted write breaks only the last.
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
    """Return the number of epochs (1-based) until train_acc reaches `threshold` (0..1), if ever."""
    for record in records:
        accuracy = record.get("train_acc")
        if accuracy is not None and accuracy >= threshold:
            return int(record["epoch"] or 0) + 1
    return None


def best(records: Sequence[Record]) -> dict[str, float | None]:
    """Return the best value over the epochs of each metric in `BETTER`; None if never measured."""
    found: dict[str, float | None] = dict.fromkeys(BETTER)
    for key, better in BETTER.items():
        if values := [value for record in records if (value := record.get(key)) is not None]:
            found[key] = better(values)
    return found


def final(records: Sequence[Record]) -> dict[str, float | None]:
    """Return the value of each metric of the records in the last epoch that was evaluated."""
    last = next((r for r in reversed(records) if r.get("train_acc") is not None), {})
    added = dict.fromkeys(key for record in records for key in record if key not in KEYS)
    return {key: last.get(key) for key in (*MEASURED, *added)}


def console_line(record: Record, *, noisy: bool) -> str:
    """Return the original code's log line (train.py), with true test labels and accuracies in %:

    `000: Acc-tr:  58.49, Acc-val:  56.92, L-tr: 1.1574, L-val: 1.1857`

    noisy: adds the accuracy on the corrupted test labels where there are any.
    """
    line = f"{int(record['epoch'] or 0):03d}: "
    if record["train_acc"] is None:
        return f"{line}not evaluated"
    percent = {key: 100 * (record[key] or 0.0) for key in MEASURED if "_acc" in key}
    line += f"Acc-tr: {percent['train_acc']:6.2f}, Acc-val: {percent['test_acc']:6.2f}, "
    line += f"L-tr: {record['train_loss']:6.4f}, L-val: {record['test_loss']:6.4f}"
    if noisy and record["test_acc_noisy"] is not None:
        line += f", Acc-noisy: {percent['test_acc_noisy']:6.2f}"
    return line
