"""Collect repeatedly, concurrently and with new metrics; names in every format."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import collect, formats
from randlabels.store import metrics

from .conftest import TINY, Cli, run_with_closed_pipe
from .synthetic import contents, record, table, write_run, write_seeds

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_collecting_after_changes_equals_collecting_for_the_first_time(tmp_path: Path) -> None:
    """Runs that come, go, change and grow; tables that were edited, damaged or lost."""
    root, summary = tmp_path / "runs", tmp_path / "runs" / "summary"
    write_seeds(root, range(0, 20))
    collect.main([str(root)])
    runs = sorted(root.glob("mlp*"))
    changed = runs[7] / "metrics.jsonl"
    changed.write_text(changed.read_text().replace("0.5", "0.75", 1))
    shutil.rmtree(runs[3])
    write_seeds(root, range(20, 25))
    with open(runs[11] / "metrics.jsonl", "a") as file:
        file.write(metrics.encode(record(3, 1.0, 0.5)) + "\n" + "{torn")
    (summary / "epochs.csv").write_text("edited")
    (summary / "test_error.csv").unlink()
    (summary / "epochs.parquet").write_bytes(b"PAR1")
    collect.main([str(root)])
    collect.main([str(root), "--out", str(tmp_path / "first")])
    assert contents(tmp_path / "first") == contents(summary)


def test_failed_write_keeps_the_earlier_tables(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect.main([str(sweep)])
    before = contents(sweep / "summary")

    def fail(*arguments: object, **keys: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.csv.write_csv", fail)
    with pytest.raises(SystemExit, match="No space left"):
        collect.main([str(sweep)])
    assert contents(sweep / "summary") == before


@pytest.mark.slow
def test_added_metric_reaches_every_table_of_records(
    cli: Cli, tmp_path: Path, measure_also: Callable[[Callable[..., dict]], None]
) -> None:
    """Runs from before it was added stay whole; a run interrupted before it resumes."""
    runs = tmp_path / "runs" / "default"
    assert cli(*TINY).code == 0

    def largest_logit(found: Any, loss: Any, train: Any, test: Any, outputs: Any, *_: Any) -> dict:
        return {"largest_logit": outputs.max().item()}

    measure_also(largest_logit)
    assert cli(*TINY, "seed=1", "eval_every=2", "epochs=3").code == 0
    collect.main([str(runs)])
    found = pd.read_csv(runs / "summary" / "epochs.csv")
    assert list(found.columns)[-len(metrics.KEYS) - 1 :] == [*metrics.KEYS, "largest_logit"]
    measured = found.sort_values(["seed", "epoch"])["largest_logit"].notna().tolist()
    assert measured == [False, False, False, True, True]
    parquet = pd.read_parquet(runs / "summary" / "epochs.parquet")
    pd.testing.assert_series_equal(parquet["largest_logit"], found["largest_logit"])
    single = pd.read_csv(runs / "summary" / "runs.csv").set_index("seed")
    assert single["state"].tolist() == ["done", "done"]
    last = found.loc[found["seed"] == 1, "largest_logit"].iloc[-1]
    assert single.loc[1, "final_largest_logit"] == last
    assert pd.isna(single.loc[0, "final_largest_logit"]) and "best_largest_logit" not in single


def test_any_numeric_key_is_a_column_and_others_are_ignored(tmp_path: Path) -> None:
    """Whole numbers in one run and fractions in another; texts, lists and flags are not metrics."""
    added = [{"b": 1, "a": 2, "text": "x"}, {"b": 0.5, "list": [1], "flag": True}, {"c": None}]
    for seed, keys in enumerate(added):
        run = write_run(tmp_path, [0.5, 0.6], seed=seed)
        records = [json.loads(line) | keys for line in run.metrics.read_text().splitlines()]
        for line in records:
            del line["test_loss_noisy"]
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in records))
    found = table(tmp_path, "epochs").sort_values(["seed", "epoch"])
    assert list(found.columns)[-len(metrics.KEYS) - 3 :] == [*metrics.KEYS, "a", "b", "c"]
    assert found["test_loss_noisy"].isna().all()
    assert found["b"].tolist()[:4] == [1, 1, 0.5, 0.5] and found["b"].isna().sum() == 2
    assert found["a"].isna().tolist() == [False, False, True, True, True, True]


@pytest.mark.slow
def test_concurrent_collections_give_whole_tables(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write_seeds(root, range(60))
    command = [sys.executable, "-m", "analysis.collect", str(root)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    together = contents(root / "summary")
    collect.main([str(root), "--out", str(tmp_path / "alone")])
    assert contents(tmp_path / "alone") == together


def test_mixed_thresholds_are_warned_about(sweep: Path, capsys) -> None:
    write_run(sweep, [0.95, 0.95, 0.95], corrupt=0.0, seed=5, fit_threshold=0.9)
    collect.main([str(sweep)])
    assert (
        "time_to_fit mixes runs with different fit_threshold: 0.9, 0.999" in capsys.readouterr().out
    )


HOSTILE = [
    "a\nb",
    "a&b",
    "a_b",
    "<script>alert(1)</script>",
    "=cmd|x",
    "{a}$",
    "a|b",
    "50%",
    "+1",
    "-x",
]


def test_names_are_escaped_in_every_format(tmp_path: Path) -> None:
    frame = pd.DataFrame({"na_me": HOSTILE, "=number": range(len(HOSTILE))})
    formats.write_csv(frame, tmp_path / "x.csv")
    formats.write_for_papers(frame.astype("str"), tmp_path / "x")
    csv = pd.read_csv(tmp_path / "x.csv")
    assert not csv["na_me"].str.match("[=+-]").any()
    assert csv["na_me"].str.removeprefix("'").tolist() == HOSTILE
    assert (tmp_path / "x.csv").read_text().startswith("na_me,'=number\n")
    text = (tmp_path / "x.md").read_text()
    assert "<script>" not in text and text.count("\n") == len(HOSTILE) + 2
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines()} == {3}
    tex = (tmp_path / "x.tex").read_text()
    body = tex.partition("\\midrule")[2].partition("\\bottomrule")[0]
    assert not re.findall(r"(?<!\\)[&_$%{}#](?!\s\d)", body.replace("{}", ""))
    assert {line.count(" & ") for line in body.strip().splitlines()} == {1}
    assert tex.startswith("\\begin{tabular}{lr}\n\\toprule\n")


def test_papers_tables_show_mean_deviation_and_number_of_seeds(sweep: Path) -> None:
    collect.main([str(sweep)])
    lines = (sweep / "summary" / "test_error.md").read_text().splitlines()
    assert lines[0] == "| dataset | model | corruption | corrupt | n | n\\_done | " + (
        "share changed (%) | test error (%) |"
    )
    assert lines[2] == "| digits | mlp | uniform | 0 | 2 | 2 | - | 9.5 ± 0.7 |"
    tex = (sweep / "summary" / "test_error.tex").read_text()
    assert r"digits & mlp & uniform & 0 & 2 & 2 & - & 9.5 $\pm$ 0.7 \\" in tex


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "written"),
    {
        "collect {}": "test_error.csv",
        "compare {} --to paper": "compare_paper.md",
        "report {}": "report.html",
        "status {}": None,
        "status {} --json": None,
    }.items(),
)
def test_closed_pipe_is_not_an_error(sweep: Path, command: str, written: str | None) -> None:
    done = run_with_closed_pipe(*f"analysis.{command.format(sweep)}".split())
    assert (done.returncode, done.stderr) == (0, "")
    assert written is None or (sweep / "summary" / written).is_file()


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_threshold_outside_its_range_is_refused(tmp_path: Path, threshold: float) -> None:
    write_run(tmp_path, [0.5])
    with pytest.raises(SystemExit, match=f"{threshold} must be above 0 and at most 1"):
        collect.main([str(tmp_path), "--fit-threshold", str(threshold)])


def test_folder_of_a_single_run_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, [0.5])
    with pytest.raises(SystemExit, match="is a single run; give the folder above it"):
        collect.main([str(run.path)])


def test_terminal_shows_a_part_of_a_long_table_and_says_so(tmp_path: Path, capsys) -> None:
    for hidden in range(1, collect.MAX_PRINTED_ROWS + 3):
        write_run(tmp_path, [0.5], model={"name": "mlp", "hidden": [hidden]})
    collect.main([str(tmp_path)])
    assert "and 2 more rows" in capsys.readouterr().out


def test_runs_of_other_images_are_other_configurations(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = write_run(tmp_path, [0.5], seed=seed)
        config = run.config.read_text().replace("name: digits", "name: image_folder")
        run.config.write_text(config)
        environment = json.loads(run.environment.read_text())
        run.environment.write_text(json.dumps({**environment, "data_sha256": str(seed) * 64}))
    found = table(tmp_path, "test_error")
    assert found["dataset.sha256"].astype(str).tolist() == ["0" * 12, "1" * 12]
