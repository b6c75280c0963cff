"""A committed miniature sweep in every state, and the tables and report that it must give.

    python -m tests.golden        # makes `runs` and `expected` again

Look at the difference before committing it: it is what users will see change.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from randlabels.store.rundir import RunDir, write_json

HERE = Path(__file__).parent
RUNS, EXPECTED = HERE / "runs", HERE / "expected"

SWEEP = ["dataset=digits", "dataset.train_size=64", "batch_size=16", "threads=1", "epochs=4"]
GRID = ["model=mlp,linear", "corrupt=0.0,0.5,1.0", "seed=0,1", "hydra/launcher=basic"]
KEPT = ["config.yaml", "corruption.json", "done.json", "environment.json", "error.json"]


def regenerate() -> None:
    """Run the sweep, spoil some of its runs, and write what analysis makes of them."""
    shutil.rmtree(RUNS, ignore_errors=True)
    shutil.rmtree(EXPECTED, ignore_errors=True)
    command = [sys.executable, "-m", "randlabels.run"]
    keys = [*SWEEP, "name=golden"]
    subprocess.run([*command, "-m", *GRID, *keys], cwd=HERE, check=True)
    subprocess.run([*command, "model=mlp", "optimizer.lr=1e8", *keys], cwd=HERE, check=True)
    sweep = RUNS / "golden"
    for folder in sorted(p for p in sweep.iterdir() if p.is_dir()):
        _make_neutral(folder)
    (sweep / ".plan.lock").unlink()

    def run(pattern: str) -> RunDir:
        return RunDir(next(iter(sorted(sweep.glob(pattern)))))

    failed, torn = run("linear-*-p0.5-s1-*"), run("mlp-*-p0.5-s1-*")
    failed.done.unlink()
    write_json(failed.error, {"exception": "MemoryError: no room", "traceback": "Traceback …"})
    torn.done.unlink()
    torn.metrics.write_bytes(torn.metrics.read_bytes()[:-40])
    newer = run("linear-*-p1-s1-*")
    content = json.loads(newer.environment.read_text()) | {"schema": 99}
    newer.environment.write_text(json.dumps(content))
    shutil.rmtree(run("mlp-*-p1-s1-*").path)  # planned, not on disk
    (sweep / "foreign").mkdir()
    (sweep / "foreign" / "config.yaml").write_text("learning_rate: 0.1\n")
    analyse(sweep, EXPECTED)


def analyse(sweep: Path, out: Path) -> None:
    """All that is compared: tables as they are, the report without its pictures."""
    arguments = [sweep.name, "--out", str(out)]
    command = [sys.executable, "-m", "analysis.report", *arguments]
    root = str(HERE.parent.parent)
    subprocess.run(command, cwd=sweep.parent, check=True, env={"PYTHONPATH": root, "PATH": ""})
    report = (out / "report.html").read_text()
    report = re.sub(r"base64,[^\"]+", "base64,", report).replace(str(out), "OUT")
    (out / "report.html").write_text(report)
    shutil.rmtree(out / "figures")
    (out / "epochs.parquet").unlink()


def _make_neutral(folder: Path) -> None:
    """Keep what analysis reads, without the traces of the machine and of its clock."""
    for file in folder.iterdir():
        if file.name not in (*KEPT, "metrics.jsonl"):
            file.unlink()
    environment = json.loads((folder / "environment.json").read_text())
    neutral = {"device_name": "a processor", "host": "host", "pid": 1, "argv": ["randlabels"]}
    neutral |= {"platform": "Linux", "git": {"commit": "0" * 40, "dirty": False}}
    (folder / "environment.json").write_text(json.dumps(environment | neutral, indent=2) + "\n")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"seconds": 0.5, "images_per_second": 128.0}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    done = json.loads((folder / "done.json").read_text()) | {"seconds": 0.5 * len(lines)}
    (folder / "done.json").write_text(json.dumps(done, indent=2) + "\n")
