"""Compare accuracies in bf16 and fp32 with the deviation over seeds.

    python -m tests.benchmarks.honesty [--data digits] [--seeds 3] [--epochs 60]
                                       [--models mlp,wrn] [--launcher packed]

With `--data digits`, an MLP [512,512] and WRN-10-1; with `--data cifar10` (needs RANDLABELS_DATA),
1,000 images, the paper's MLP [512] and the original code's WRN-28-1. Labels are true or random. The
table has the epochs to fit and final accuracies of each precision, mean and standard deviation
over the seeds. The last column says whether the means differ by at most two standard errors of a
difference of means, or by the resolution of the figure (one epoch, one image).
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from randlabels.console import print_table

from .sweep import ours


@dataclass(frozen=True)
class Data:
    """Options of all runs on a data set, options of each model, and numbers of images."""

    common: list[str]
    models: dict[str, list[str]]
    train: int
    test: int

    @property
    def figures(self) -> dict[str, float]:
        """The figures that are compared, with the resolution of each."""
        return {"epochs to fit": 1.0, "train acc": 1 / self.train, "test acc": 1 / self.test}


DATA = {
    "digits": Data(
        ["dataset=digits"],
        {"mlp": ["model.hidden=[512,512]", "optimizer.lr=0.03"], "wrn": ["model.depth=10"]},
        1437,
        360,
    ),
    "cifar10": Data(
        ["dataset=cifar10", "dataset.train_size=1000", "dataset.test_size=1000"],
        {"mlp": [], "wrn": []},
        1000,
        1000,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--launcher", default="packed")
    parser.add_argument("--models", default="mlp,wrn")
    options = parser.parse_args()
    data = DATA[options.data]
    common = [*data.common, "batch_size=32", "schedule=cosine", f"epochs={options.epochs}"]
    common += [f"seed=range(0,{options.seeds})", f"hydra/launcher={options.launcher}"]
    rows = []
    for model in options.models.split(","):
        chosen = [*common, f"model={model}", *data.models[model]]
        for corrupt in ("0.0", "1.0"):
            found = {}
            for precision in ("fp32", "bf16"):
                with tempfile.TemporaryDirectory() as folder:
                    these = [*chosen, f"corrupt={corrupt}", f"precision={precision}"]
                    _, runs = ours(these, Path(folder))
                    found[precision] = [json.loads((r / "done.json").read_text()) for r in runs]
            for figure, resolution in data.figures.items():
                rows.append([f"{model}, p={corrupt}", figure, *compare(found, figure, resolution)])
    columns = ["run", "figure", "fp32", "bf16", "within noise"]
    print_table(f"{options.seeds} seeds, {options.epochs} epochs", columns, rows)


def compare(found: dict[str, list[dict]], figure: str, resolution: float) -> list[str]:
    """Return mean ± deviation in each precision, and whether the means agree."""
    values = [[_read(result, figure) for result in found[p]] for p in ("fp32", "bf16")]
    if any(math.isnan(value) for v in values for value in v):
        fitted = [f"{sum(not math.isnan(value) for value in v)} fitted" for v in values]
        return [*fitted, "-"]
    shown = [f"{mean(v):.4g} ± {stdev(v):.2g}" for v in values]
    noise = 2 * math.sqrt(sum(stdev(v) ** 2 / len(v) for v in values))
    allowed = max(noise, resolution) * (1 + 1e-9)  # rounding errors
    agree = abs(mean(values[0]) - mean(values[1])) <= allowed
    return [*shown, "yes" if agree else "NO"]


def _read(result: dict, figure: str) -> float:
    if figure == "epochs to fit":
        return float(result["epochs_to_fit"] or math.nan)
    return float(result["final"][figure.replace(" ", "_")])


if __name__ == "__main__":
    main()
