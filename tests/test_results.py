"""Stored results: which runs a number comes from, and that others can compute it again."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis import compare, published
from analysis.collect import collect
from analysis.formats import write_csv
from randlabels.store import provenance, rundir

from .golden import KEPT
from .stored import ARCHIVE, RESULTS, main, tables, unpack
from .synthetic import write_run

ORIGINAL_MLP = {"dataset": {"name": "cifar10"}, "corrupt": 1.0}


def test_comparison_says_what_our_runs_were_computed_with(tmp_path: Path) -> None:
    """Runs that differ in it are all named; a number without runs has none."""
    for seed, precision in enumerate(["fp32", "bf16"]):
        run = write_run(tmp_path, [0.1] * 300, **ORIGINAL_MLP, seed=seed)
        environment = json.loads(run.environment.read_text())
        environment |= {"precision": precision, "device_name": "AMD EPYC"}
        environment["argv"] = ["run.py", "-m", "sweep=seed/readme"]
        run.environment.write_text(json.dumps(environment))
    write_run(tmp_path, [0.1], state="planned", **ORIGINAL_MLP, seed=2).environment.unlink()
    numbers = published.read("seed")
    table = compare.compare(collect(tmp_path)[0], numbers).set_index("row")
    mlp, network = table.loc["MLP 512, random labels"], table.loc["WRN-28-1, true labels"]
    expected = {
        "used_device": "cpu",
        "used_precision": "bf16, fp32",
        "used_threads": "1",
        "device_name": "AMD EPYC",
        "git": "a" * 12,
        "command": "python -m randlabels.run -m sweep=seed/readme",
    }
    for column, value in expected.items():
        assert set(mlp[column]) == {value}
        assert set(network[column]) == {""}


def test_environment_names_the_program_without_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/someone/randlabels/run.py", "corrupt=0.5"])
    assert provenance.describe({"device": "cpu"})["argv"] == ["run.py", "corrupt=0.5"]


@pytest.fixture(scope="module")
def stored_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the runs behind the tables of `analysis/results`."""
    return unpack(RESULTS, tmp_path_factory.mktemp("stored"))


def test_stored_runs_give_the_stored_tables(stored_runs: Path, tmp_path: Path) -> None:
    """Each sweep has one, and the rows of a comparison that these runs cover are theirs."""
    for file, table in tables(stored_runs, RESULTS).items():
        write_csv(table, tmp_path / file)
        made, stored = pd.read_csv(tmp_path / file), pd.read_csv(RESULTS / file)
        pd.testing.assert_frame_equal(made, stored, rtol=1e-12)
        assert made["command"].notna().all()


def test_stored_runs_are_small_and_name_no_folder(stored_runs: Path) -> None:
    assert (RESULTS / ARCHIVE).stat().st_size < 3e6
    files = list(stored_runs.glob("*/*/*"))
    assert files
    for file in files:
        assert file.name in ("metrics.jsonl", *KEPT)
        assert not re.search(r'"/|: /', file.read_text()), f"{file} has an absolute path"


@pytest.mark.slow
def test_runs_are_stored_without_a_change_to_others(tmp_path: Path) -> None:
    """A sweep is replaced by its finished runs; another keeps its runs and its table."""
    results = tmp_path / "results"
    results.mkdir()
    for target in published.TARGETS:
        shutil.copy(RESULTS / f"{target}.csv", results)
    first = write_run(tmp_path / "first", [0.5, 0.6])
    write_run(tmp_path / "second", [0.5, 0.6], seed=1)
    main([tmp_path / "first", tmp_path / "second"], results)
    before = {file.name: file.read_bytes() for file in results.iterdir()}
    rundir.write_json(first.done, json.loads(first.done.read_text()) | {"parameters": 593})
    write_run(tmp_path / "first", [0.5], state="failed", seed=2)
    main([tmp_path / "first"], results)
    after = {file.name: file.read_bytes() for file in results.iterdir()}
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {ARCHIVE, "first.csv"}
    assert pd.read_csv(results / "first.csv")["parameters"].tolist() == [593]


def test_folder_without_finished_runs_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no finished runs"):
        main([tmp_path / "course-flatness"], tmp_path)
    assert not list(tmp_path.iterdir())
