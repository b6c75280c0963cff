"""Collecting again, at once with others, over damage; names in every format."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import yaml

from analysis import collect, epochs, folders, formats, status
from randlabels.store import metrics

from .conftest import unread
from .synthetic import contents, record, table, write_run

ROOT = Path(__file__).parent.parent


def many(root: Path, seeds: range) -> None:
    for seed in seeds:
        write_run(root, [seed / 400, 0.5, 1.0], seed=seed)


def test_collecting_after_changes_equals_collecting_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that come, go, change and grow; blocks that stay are not parsed again."""
    root = tmp_path / "runs"
    many(root, range(0, 150))
    collect.main([str(root)])
    parsed: list[int] = []
    parse_block = epochs._parse

    def counting(block: epochs.Block, *arguments: Any) -> Any:
        parsed.append(len(block.runs))
        return parse_block(block, *arguments)

    monkeypatch.setattr(epochs, "_parse", counting)
    collect.main([str(root)])
    assert parsed == []

    folders = sorted(root.glob("mlp*"))
    changed = folders[70] / "metrics.jsonl"
    changed.write_text(changed.read_text().replace("0.5", "0.75", 1))
    collect.main([str(root)])
    assert len(parsed) == 1 and parsed[0] < 150

    shutil.rmtree(folders[10])
    many(root, range(150, 180))
    with open(folders[20] / "metrics.jsonl", "a") as file:
        file.write(metrics.encode(record(3, 1.0, 0.5)) + "\n" + "{torn")
    collect.main([str(root)])
    assert len(parsed) > 1
    incremental = contents(root / "summary")
    collect.main([str(root), "--out", str(tmp_path / "anew")])
    assert contents(tmp_path / "anew") == incremental
    assert len([name for name in incremental if "parquet" in name]) > 1


def test_tables_that_were_edited_damaged_or_lost_are_written_anew(sweep: Path) -> None:
    collect.main([str(sweep)])
    summary = sweep / "summary"
    first = contents(summary)
    (block,) = (summary / "epochs.parquet").iterdir()
    spoilers: list[Callable[[], object]] = [
        lambda: ((summary / "epochs.csv").write_text("edited"), block.unlink()),
        lambda: (summary / "test_error.csv").unlink(),
        lambda: block.write_bytes(block.read_bytes()[:-100]),
        lambda: [(summary / ".cache" / f"{of}.json").write_text("{}") for of in ("runs", "epochs")],
        lambda: shutil.rmtree(summary / ".cache"),
    ]
    for spoil in spoilers:
        spoil()
        collect.main([str(sweep)])
        assert contents(summary) == first


# Names


SPOILERS = {
    "negative epoch": lambda run: run.metrics.write_text(
        run.metrics.read_text().replace("0,", "-1,", 1)
    ),
    "far epoch": lambda run: run.metrics.write_text(
        run.metrics.read_text().replace('"epoch": 1', '"epoch": 1000000000000')
    ),
    "log is a folder": lambda run: (run.metrics.unlink(), run.metrics.mkdir()),
    "log is a dangling link": lambda run: (run.metrics.unlink(), run.metrics.symlink_to("gone")),
    "log is missing": lambda run: run.metrics.unlink(),
    "log is short": lambda run: run.metrics.write_text(
        run.metrics.read_text().splitlines()[0] + "\n"
    ),
    "log is doubled": lambda run: run.metrics.write_text(2 * run.metrics.read_text()),
    "text for a number": lambda run: run.done.write_text(
        re.sub(r'"test_acc": [\d.]+', '"test_acc": "x"', run.done.read_text())
    ),
    "a date": lambda run: run.config.write_text(run.config.read_text() + "when: 2026-11-22\n"),
    "no epochs": lambda run: run.config.write_text(
        re.sub("(?m)^epochs: .*$", "", run.config.read_text())
    ),
    "link to itself": lambda run: (run.path / "again").symlink_to(run.path),
    "plan of bytes": lambda run: (run.path.parent / "plan.jsonl").write_bytes(
        b'\xff\n{"run_id": 5}\n'
    ),
}


@pytest.mark.parametrize("kind", SPOILERS)
def test_one_bad_folder_spoils_nothing_else(kind: str, sweep: Path, capsys) -> None:
    """Whatever is wrong with one run, the others' means are right and nothing is counted twice."""
    before = table(sweep, "test_error").set_index("corrupt")
    bad = write_run(sweep, [0.5, 0.6, 0.7], corrupt=0.0, seed=7)
    SPOILERS[kind](bad)
    (sweep / "loop").symlink_to(sweep)
    collect.main([str(sweep)])
    status.main([str(sweep)])
    shown = capsys.readouterr().out
    found = pd.read_csv(sweep / "summary" / "test_error.csv").set_index("corrupt")
    curves = pd.read_csv(sweep / "summary" / "corruption_vs_epochs.csv").set_index("corrupt")
    assert curves.loc[1.0, ["0", "1", "2"]].tolist() == pytest.approx([0.2, 0.6, 0.95])
    if kind in ("link to itself", "plan of bytes"):
        assert found.loc[0.0, "n_done"] == 3
    else:
        assert found.loc[0.0, "n_done"] == 2 and str(bad.path) in shown
        assert found.loc[0.0, "test_error_mean"] == before.loc[0.0, "test_error_mean"]
        assert curves.loc[0.0, ["0", "1", "2"]].tolist() == pytest.approx([0.75, 1.0, 1.0])


def test_damaged_first_run_of_a_block_leaves_nothing_but_text(tmp_path: Path) -> None:
    """epochs.csv is the table without that run; Arrow writes an empty first chunk as garbage."""
    many(tmp_path / "runs", range(3))
    collect.main([str(tmp_path / "runs"), "--out", str(tmp_path / "whole")])
    lines = (tmp_path / "whole" / "epochs.csv").read_bytes().splitlines()
    first = lines[1].partition(b",")[0]
    log = tmp_path / "runs" / first.decode() / "metrics.jsonl"
    log.write_text(log.read_text().replace('"lr": 0.1', '"lr": "x"'))
    collect.main([str(tmp_path / "runs")])
    found = (tmp_path / "runs" / "summary" / "epochs.csv").read_bytes().splitlines()
    assert found == [line for line in lines if not line.startswith(first)]
    records = pa.table({"epoch": [0, 1]})
    parts = pa.concat_tables([records.slice(2), records])
    assert formats.as_csv(parts, header=False) == b"0\n1\n"


CONFIGS = {
    "as written": "a: 1\nb:\n  c: 2\n  d: [1]\ne:\n- 1\n- x\nf: null\n",
    "key twice": "a: 1\na: 2\n",
    "text over lines": "a: 'x\n\n  y'\nb: |\n  c: 1\n",
    "text to the margin": 'a: "x\nb: y"\n',
    "anchor": "a: &x [1]\nb: *x\n",
    "comment": "# text\na: 1 # text\n\nb: 2\n",
    "no end": "a: 1\nb: 2",
    "no key": "a: 1\nb:2\n",
    "text": "a:b\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "two documents after a list": "a:\n- 1\n---\nb: 2\n",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_says_what_yaml_says(name: str) -> None:
    """Whether its keys can be read one by one or not."""
    said: list[object] = []
    for read in (yaml.safe_load, folders._config):
        try:
            said.append(read(CONFIGS[name].encode()))
        except yaml.YAMLError as error:
            said.append(type(error))
    assert said[0] == said[1]


def test_cache_of_other_code_is_not_believed(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect.main([str(sweep)])
    names = {name for name in contents(sweep / "summary") if "parquet" in name}
    monkeypatch.setattr("analysis.runs.CODE", "other")
    collect.main([str(sweep)])
    assert names.isdisjoint(contents(sweep / "summary"))


def test_moved_folder_is_named_by_its_new_place(tmp_path: Path, capsys) -> None:
    torn = write_run(tmp_path / "old", [0.5, 0.5], state="interrupted")
    torn.metrics.write_bytes(torn.metrics.read_bytes()[:-9])
    collect.main([str(tmp_path / "old")])
    (tmp_path / "old").rename(tmp_path / "new")
    capsys.readouterr()
    collect.main([str(tmp_path / "new")])
    shown = capsys.readouterr().out
    assert f"{tmp_path}/new/{torn.run_id}/metrics.jsonl ends with a torn line" in shown
    assert "/old" not in shown


def test_two_collections_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    many(root, range(60))
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
    assert lines[0] == "| dataset | model | corruption | corrupt | n | n\\_done | test error (%) |"
    assert lines[2] == "| digits | mlp | uniform | 0 | 2 | 2 | 9.5 ± 0.7 |"
    tex = (sweep / "summary" / "test_error.tex").read_text()
    assert r"digits & mlp & uniform & 0 & 2 & 2 & 9.5 $\pm$ 0.7 \\" in tex


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
def test_output_that_nobody_reads_is_no_error(
    sweep: Path, command: str, written: str | None
) -> None:
    done = unread(*f"analysis.{command.format(sweep)}".split())
    assert (done.returncode, done.stderr) == (0, "")
    assert written is None or (sweep / "summary" / written).is_file()
