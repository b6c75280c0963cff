"""Scores of wrong labels: against scikit-learn and hand counts, over seeds, with damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import randlabels
from analysis import collect, detection, example_figures, report

from .conftest import BASIC, TINY, Cli
from .synthetic import contents, table, write_run

LEVELS, SEEDS = (0.2, 0.4), (0, 1)


def draw_examples(n: int, corrupt: float, seed: int) -> pd.DataFrame:
    """Return n examples as examples.parquet holds them, with ties and labels never learned."""
    draws = np.random.RandomState(seed)
    changed = draws.rand(n) < corrupt
    true = draws.randint(0, 10, n)
    learned = pd.Series(draws.randint(0, 3, n) + changed, dtype="Int64")
    values = {
        name: (draws.randn(n) + changed).astype("float32") for name in ("loss", "variability")
    }
    values |= {
        name: (draws.randn(n) - changed).astype("float32") for name in ("margin", "confidence")
    }
    return pd.DataFrame(
        {
            "index": np.arange(n),
            "true": true,
            "label": (true + changed) % 10,
            "changed": changed,
            "prediction": true,
            "first_learned": learned.mask(learned == 3),
            "last_wrong": learned,
            "forgotten": draws.poisson(1 + changed),
            **values,
            **{f"loss_epoch_{e}": values["loss"] + draws.randn(n) for e in (2, 0)},
            **{f"margin_epoch_{e}": values["margin"] + draws.randn(n) for e in (2, 0)},
        }
    )


@pytest.fixture
def runs_with_examples(tmp_path: Path) -> Path:
    """Finished runs with examples: two levels, two seeds; and one without changed labels."""
    for corrupt in (0.0, *LEVELS):
        for seed in SEEDS:
            run = write_run(tmp_path, [0.5, 0.75, 1.0], corrupt=corrupt, seed=seed)
            draw_examples(200, corrupt, seed).to_parquet(run.examples)
    return tmp_path


def changed_and_score(examples: pd.DataFrame, score: str) -> tuple[np.ndarray, np.ndarray]:
    """Return `changed` and a score as NumPy has it, high where suspicious."""
    never = examples["first_learned"].isna() & (score in ("first_learned", "forgotten"))
    values = np.where(never, np.inf, examples[score].astype(float))
    return examples["changed"].to_numpy(), -values if score in ("margin", "confidence") else values


def test_each_score_has_the_auroc_of_scikit_learn_over_the_seeds(runs_with_examples: Path) -> None:
    found = table(runs_with_examples, "detection")
    scores = [*detection.SCORES, "loss_epoch_0", "loss_epoch_2"]
    assert found["score"].tolist() == scores * len(LEVELS)
    assert found["corrupt"].tolist() == sorted(LEVELS * len(scores))
    for row in found.to_dict("records"):
        areas = []
        for seed in SEEDS:
            changed, values = changed_and_score(
                draw_examples(200, row["corrupt"], seed), row["score"]
            )
            areas.append(roc_auc_score(changed, np.minimum(values, 1e9)))
        assert (row["n"], row["n_done"]) == (2, 2)
        assert row["auroc_mean"] == pytest.approx(np.mean(areas), abs=1e-12)
        assert row["auroc_sd"] == pytest.approx(np.std(areas, ddof=1), abs=1e-12)


@pytest.mark.parametrize(
    ("score", "changed", "expected"),
    [
        ([3, 2, 1, 0], [1, 1, 0, 0], 0.0),
        ([3, 2, 1, 0], [1, 0, 1, 0], 0.5),
        ([3, 2, 1, 0], [0, 0, 0, 1], 1.0),
        ([9, 5, 5, 5, 5], [1, 1, 0, 0, 0], 1 - 1.25 / 2),  # one of four tied is flagged
        ([5, 5, 5, 5, 5], [1, 1, 0, 0, 0], 1 - 2 / 5),  # flagged at random
    ],
)
def test_missed_share_of_tied_scores_is_its_expectation(
    score: list[float], changed: list[int], expected: float
) -> None:
    assert detection.missed(pd.Series(score), np.array(changed, bool)) == pytest.approx(expected)


def test_tables_with_examples_are_written_and_repeat_byte_for_byte(
    runs_with_examples: Path,
) -> None:
    collect.main([str(runs_with_examples)])
    first = contents(runs_with_examples / "summary")
    collect.main([str(runs_with_examples)])
    assert contents(runs_with_examples / "summary") == first
    lines = first["detection.md"].decode().splitlines()
    assert lines[0].endswith("| share changed (%) | score | auroc (%) | missed (%) |")
    assert len(lines) == 2 + len(LEVELS) * 8 and " ± " in lines[2]
    for file in runs_with_examples.rglob("examples.parquet"):
        file.unlink()
    collect.main([str(runs_with_examples)])
    assert not list((runs_with_examples / "summary").glob("detection.*"))


def test_damaged_examples_are_skipped_and_the_run_still_counts_elsewhere(
    runs_with_examples: Path, capsys: pytest.CaptureFixture
) -> None:
    half, foreign, other, _ = sorted(runs_with_examples.glob("mlp*p0.[24]*/examples.parquet"))
    half.write_bytes(half.read_bytes()[:-100])
    pd.DataFrame({"index": [0]}).to_parquet(foreign)
    collect.main([str(runs_with_examples)])
    shown = capsys.readouterr().out
    assert f"Warning: {half} is skipped: damaged (" in shown
    assert f"{foreign} is skipped: damaged (it lacks true, label, changed, margin" in shown
    found = pd.read_csv(runs_with_examples / "summary" / "detection.csv")
    assert set(found["corrupt"]) == {0.4} and set(found["n_done"]) == {2}
    other.write_bytes(b"")
    found = table(runs_with_examples, "detection")
    assert found[["n", "n_done"]].drop_duplicates().values.tolist() == [[2, 1]]
    assert found["auroc_sd"].isna().all()
    assert table(runs_with_examples, "test_error")["n_done"].tolist() == [2, 2, 2]


def test_changed_as_numbers_is_damage(
    runs_with_examples: Path, capsys: pytest.CaptureFixture
) -> None:
    file = sorted(runs_with_examples.glob("mlp*p0.[24]*/examples.parquet"))[0]
    examples = pd.read_parquet(file)
    examples.assign(changed=examples["changed"].astype(int)).to_parquet(file)
    collect.main([str(runs_with_examples)])
    assert f"{file} is skipped: damaged (changed must be true or false)" in capsys.readouterr().out


def test_score_that_is_not_a_number_has_no_row(runs_with_examples: Path) -> None:
    for file in runs_with_examples.glob("mlp*p0.2*/examples.parquet"):
        examples = pd.read_parquet(file)
        examples.loc[3, "loss"] = np.nan
        examples.to_parquet(file)
    assert table(runs_with_examples, "detection").groupby("corrupt").size().tolist() == [7, 8]


def test_figures_show_the_examples_of_the_files(runs_with_examples: Path) -> None:
    found, tables = collect.collect(runs_with_examples)
    scores = tables["detection"]
    drawn = {name: f for name, (f, _) in example_figures.build(found, scores).items()}
    run = draw_examples(200, 0.4, 0)  # the first of the middle level
    for kind, column, sign in (("loss", "loss_epoch_2", 1), ("margin", "margin_epoch_2", -1)):
        first, third, last = drawn[f"{kind}_distribution"].axes
        area = roc_auc_score(run["changed"], sign * run[column])
        assert third.get_title(loc="left") == f"epochs: 3\nAUROC {100 * area:.1f} %"
        assert [patch.get_label() for patch in first.patches] == ["unchanged", "changed"]
        assert last.get_title(loc="left").startswith(example_figures.IN_THE_END[kind])
    (panel,) = drawn["detection"].axes
    for score, bars in zip(detection.SCORES, panel.containers, strict=True):
        expected = 100 * scores.loc[scores["score"] == score, "auroc_mean"]
        assert bars.lines[0].get_ydata().tolist() == expected.tolist()
    (panel,) = drawn["first_learned"].axes
    changed = [draw_examples(200, 0.2, seed).query("changed")["first_learned"] for seed in SEEDS]
    expected = [
        100 * np.mean([(first <= epoch).sum() / len(first) for first in changed])
        for epoch in range(3)
    ]
    dashed, _ = [line.get_ydata() for line in panel.lines if line.get_linestyle() == "--"]
    assert dashed == pytest.approx(expected)


@pytest.mark.slow
def test_report_shows_the_images_of_the_lowest_margins(cli: Cli, tmp_path: Path) -> None:
    keys = ["corruption=uniform", "corrupt=0.4", "examples=true", "eval_every=2", BASIC]
    assert cli("-m", *TINY, *keys).code == 0
    found, tables = collect.collect(tmp_path / "runs")
    figure, caption = example_figures.build(found, tables["detection"])["suspects"]
    run = randlabels.load(found.runs["folder"][0])
    worst = np.argsort(run.examples["margin"].to_numpy(), kind="stable")[:24]
    for panel, i in zip(figure.axes, worst, strict=True):
        assert np.array_equal(panel.images[0].get_array(), run.train.images[i, 0])
        wrong = f"true {run.train.true[i]}" if run.train.changed[i] else "unchanged"
        assert panel.get_title(loc="center") == f"label {run.train.labels[i]}\n{wrong}"
    assert f"{run.train.changed[worst].sum()} of these 24 labels were changed" in caption
    report.main([str(tmp_path / "runs")])
    html = (tmp_path / "runs" / "summary" / "report.html").read_text()
    assert html.count(caption) == 2 and "shows no images" not in html


@pytest.mark.slow
def test_report_without_the_data_says_why_it_shows_no_images(tmp_path: Path) -> None:
    missing = {"name": "mnist", "root": str(tmp_path / "nowhere")}
    run = write_run(tmp_path, [0.5], corrupt=0.4, dataset=missing)
    draw_examples(60, 0.4, 0).filter(regex="^(?!.*_epoch_)").to_parquet(run.examples)
    report.main([str(tmp_path)])
    html = (tmp_path / "summary" / "report.html").read_text()
    assert html.count("the report shows no images: ") == 1 and "lowest margin" not in html
    assert "Training images by margin" in html
