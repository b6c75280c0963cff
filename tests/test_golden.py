"""The miniature sweep in every state: tables and report are exactly the committed ones."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis import collect, report, status

from .conftest import BASIC, Cli
from .golden import EXPECTED, RUNS, SWEEP, analyse
from .synthetic import contents, shuffled_folders


def copy_sweep(folder: Path) -> Path:
    """The miniature sweep, in `folder`."""
    shutil.copytree(RUNS / "golden", folder / "golden")
    for file in folder.rglob("*"):
        os.utime(file, (1e9, 1e9))  # written long ago, on another host
    return folder / "golden"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return copy_sweep(tmp_path)


@pytest.fixture(scope="module")
def sweep_with_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep with its report, for tests that only read it."""
    folder = copy_sweep(tmp_path_factory.mktemp("reported"))
    report.main([str(folder)])
    return folder


def test_tables_and_report_are_the_committed_ones(sweep: Path, tmp_path: Path) -> None:
    analyse(sweep, tmp_path / "out")
    made = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
    assert sorted(made) == sorted(file.name for file in EXPECTED.iterdir())
    for file in EXPECTED.iterdir():
        assert made[file.name] == file.read_text(), file.name


def test_committed_means_are_those_of_the_committed_runs() -> None:
    """A golden file may freeze a mistake; this computes one column from the runs themselves."""
    rows = []
    for file in sorted((RUNS / "golden").glob("*/done.json")):
        result = json.loads(file.read_text())
        schema = json.loads((file.parent / "environment.json").read_text())["schema"]
        if result["state"] == "done" and schema == 1:
            model, _, _, level, *_ = file.parent.name.split("-")
            rows.append((model, float(level[1:]), 1 - result["final"]["test_acc"]))
    frame = pd.DataFrame(rows, columns=["model", "corrupt", "error"])
    groups = frame.groupby(["model", "corrupt"])["error"]
    found = pd.read_csv(EXPECTED / "test_error.csv").dropna(subset="test_error_mean")
    found = found.set_index(["model", "corrupt"])
    pd.testing.assert_series_equal(found["test_error_mean"], groups.mean(), check_names=False)
    pd.testing.assert_series_equal(found["test_error_sd"], groups.std(), check_names=False)
    assert found["n_done"].tolist() == groups.size().tolist()


def test_committed_runs_come_out_again(cli: Cli, set_bf16: Callable[[bool], None]) -> None:
    """Folders and accuracies are equal; losses differ in the last bits of a sum."""
    set_bf16(False)
    keys = ["model=mlp,linear", "corrupt=0.0,0.5", "seed=0", "name=golden", BASIC]
    assert cli("-m", *SWEEP, *keys).code == 0
    folders = sorted(file.parent for file in Path("runs/golden").glob("*/done.json"))
    assert len(folders) == 4
    for folder in folders:
        found, expected = (
            pd.read_json(path / "metrics.jsonl", lines=True).drop(columns=TIMES)
            for path in (folder, RUNS / "golden" / folder.name)
        )
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5)


TIMES = ["seconds", "images_per_second"]

TORN = "ends with a torn line, which is skipped"
NAMED = [
    "failed",
    "diverged",
    TORN,
    "config.yaml was not written by randlabels",
    "it was written as schema 99",
]


def test_every_command_names_every_kind_of_missing_run(sweep: Path, capsys) -> None:
    collect.main([str(sweep)])
    collected = capsys.readouterr().out
    status.main([str(sweep)])
    shown = capsys.readouterr().out
    text = (EXPECTED / "report.html").read_text().partition("</style>")[2]
    for sentence in NAMED:
        assert sentence in collected and sentence in text
        assert sentence.replace(TORN, "is torn") in shown
    counts = re.search(r"(\d+) runs: (.*?)\. \d+ epochs done", shown)
    assert counts and counts[2] == "1 diverged, 8 done, 1 failed, 1 foreign, 1 planned, 1 stale"


def test_no_mean_hides_a_missing_run() -> None:
    for name in ("test_error", "time_to_fit", "corruption_vs_epochs"):
        table = pd.read_csv(EXPECTED / f"{name}.csv")
        assert table["n"].sum() == 13 and table["n_done"].sum() == 8
    text = (EXPECTED / "report.html").read_text()
    assert "5 of 13 runs are not in them" in text


@pytest.mark.slow
def test_report_is_the_same_bytes_when_repeated_in_any_directory_order(
    sweep_with_report: Path, tmp_path: Path
) -> None:
    first = contents(sweep_with_report / "summary")
    assert len([name for name in first if name.endswith((".png", ".pdf"))]) == 14
    with shuffled_folders():
        report.main([str(sweep_with_report), "--out", str(tmp_path / "again")])
    again = contents(tmp_path / "again")
    option = f" --out {tmp_path / 'again'}".encode()  # in the command that the report states
    again["report.html"] = again["report.html"].replace(option, b"")
    assert again == first


def test_report_needs_no_other_file(sweep_with_report: Path) -> None:
    html = (sweep_with_report / "summary" / "report.html").read_text()
    assert not re.findall(r"(?:src|srcset|href)=\"(?!data:)", html)
    pictures = re.findall(r"<img src=\"data:image/png;base64,([^\"]+)", html)
    assert len(pictures) == 7
    names = "learning_curves clean_and_corrupted memorisation time_to_fit test_error"
    names += " test_error_noisy generalization_gap"
    for name, picture in zip(names.split(), pictures, strict=True):
        file = sweep_with_report / "summary" / "figures" / f"{name}.png"
        assert base64.b64decode(picture) == file.read_bytes()


@pytest.mark.slow
def test_names_in_the_report_are_escaped(sweep: Path) -> None:
    hostile = sweep / "<script>alert(1)<&"
    shutil.copytree(next(sweep.glob("mlp-*-p0-s0-*")), hostile)
    report.main([str(sweep)])
    html = (sweep / "summary" / "report.html").read_text()
    assert "<script>" not in html and "&lt;script&gt;" in html


@pytest.fixture
def browser():
    """Headless Chromium, or a skip that says what is missing."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("Chromium not found: install Debian's chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync"
    flags += " disable-background-networking disable-component-update hide-scrollbars"
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


@pytest.mark.parametrize("width", [1200, 390])
def test_report_opens_without_errors_requests_or_overflow(
    browser, sweep_with_report: Path, width: int
) -> None:
    page = (sweep_with_report / "summary" / "report.html").as_uri()
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in requested if not url.startswith("data:")} == {page}
    script = "return [document.documentElement.scrollWidth, window.innerWidth]"
    content, window = browser.execute_script(script)
    assert content <= window
    images = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(images) == 7 and min(images) > 0
