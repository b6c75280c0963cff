"""The records and files that the tables are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from randlabels.store import metrics, rundir

from .synthetic import record


def test_records_read_back_and_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert metrics.read(file) == ([], False)
    written = [record(epoch, 0.5, 0.5) for epoch in range(3)]
    whole = "".join(metrics.encode(r) + "\n" for r in written)
    file.write_text(whole)
    assert metrics.read(file) == (written, False)
    last = len(whole) - len(metrics.encode(written[2])) - 1
    for end in range(last + 1, len(whole)):
        file.write_text(whole[:end])
        assert metrics.read(file) == (written[:2], True)
    file.write_text(whole[:20] + "\n" + whole)
    with pytest.raises(ValueError, match="line 1 is damaged"):
        metrics.read(file)


def test_no_nan_is_ever_written() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            metrics.encode({"epoch": 0, "train_loss": value})


def test_console_line_is_the_original_codes() -> None:
    """The first line of the original README's log of true labels, with its own format string."""
    values = record(0, 0.5849, 0.5692) | {"train_loss": 1.1574, "test_loss": 1.1857}
    line = "%03d: Acc-tr: %6.2f, Acc-val: %6.2f, L-tr: %6.4f, L-val: %6.4f"
    assert metrics.console_line(values, noisy=False) == line % (0, 58.49, 56.92, 1.1574, 1.1857)
    assert metrics.console_line(values | {"test_acc_noisy": 0.1}, noisy=True).endswith(
        ", L-val: 1.1857, Acc-noisy:  10.00"
    )


def test_best_final_and_epochs_to_fit_read_the_curve() -> None:
    curve = [record(0, 0.5, 0.9), record(1, 1.0, 0.7), record(2, 0.99, 0.8)]
    curve.insert(1, dict.fromkeys(metrics.KEYS) | {"epoch": 1})
    assert metrics.epochs_to_fit(curve, 0.999) == 2
    assert metrics.epochs_to_fit(curve, 1.01) is None
    assert metrics.best(curve)["test_acc"] == 0.9
    assert metrics.final(curve)["test_acc"] == 0.8
    assert metrics.final([])["test_acc"] is None


def test_metric_has_a_best_only_if_a_direction_is_stated() -> None:
    """Earlier records lack a metric that was added later: it is missing there."""
    curve = [record(0, 0.5, 0.9), record(1, 0.6, 0.8) | {"margin": 3.0}]
    assert "margin" not in metrics.best(curve)
    assert metrics.final(curve)["margin"] == 3.0
    assert metrics.final([*curve, record(2, 0.7, 0.7)])["margin"] is None
    assert metrics.best([{"epoch": 0.0, "lr": 0.1}]) == dict.fromkeys(metrics.MEASURED)
    assert metrics.final([{"epoch": 0.0, "lr": 0.1}]) == dict.fromkeys(metrics.MEASURED)
    assert metrics.epochs_to_fit([{"epoch": 0.0, "lr": 0.1}], 0.5) is None


def test_atomic_write_keeps_the_old_content_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.json"
    rundir.write_atomic(file, "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        rundir.write_atomic(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_plan_is_merged_and_survives_a_torn_line(tmp_path: Path) -> None:
    rundir.merge_plan(tmp_path, [{"run_id": "a", "overrides": ["x=1"]}, {"run_id": "b"}])
    rundir.merge_plan(tmp_path, [{"run_id": "a", "overrides": ["x=2"]}, {"run_id": "c"}])
    plan = rundir.read_plan(tmp_path)
    assert list(plan) == ["a", "b", "c"]
    assert plan["a"]["overrides"] == ["x=2"], "what was asked for last"
    file = tmp_path / "plan.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    assert list(rundir.read_plan(tmp_path)) == ["a", "b"]
