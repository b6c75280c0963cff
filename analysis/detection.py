"""Which labels are wrong: how well scores of the training examples find the changed labels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet

from randlabels.store.rundir import RunDir

from .runs import Collection
from .tables import configurations

# Columns of examples.parquet that rank labels, in the order of the table; `loss_epoch_E` follow.
SCORES = ["margin", "confidence", "variability", "forgotten", "first_learned", "loss"]
LOW_IF_WRONG = ["margin", "confidence"]  # of the other scores, high values are suspicious
COLUMNS = ["index", "true", "label", "changed", *SCORES]  # of every examples.parquet


def table(found: Collection) -> pd.DataFrame:
    """Return how well each score finds changed labels, a row per configuration and score.

    Mean and sample deviation of `auroc` and `missed` over `n_done` runs. A run is left out unless
    it has examples.parquet with changed and with unchanged labels. The index is the row among the
    `configurations`.
    """
    keys, configuration = configurations(found)
    columns, measured = ["configuration", "score", "auroc", "missed"], []
    for run, examples in read(found):
        changed = examples["changed"].to_numpy()
        for score, values in suspicion(examples).items():
            measures = auroc(values, changed), missed(values, changed)
            measured.append((configuration[run], score, *measures))
    groups = pd.DataFrame(measured, columns=columns).groupby(columns[:2], sort=False)
    cells = groups.agg(["mean", "std"])
    cells.columns = pd.Index(["auroc_mean", "auroc_sd", "missed_mean", "missed_sd"])
    cells.insert(0, "n_done", groups.size())
    cells = cells.reset_index("score")
    return keys.loc[cells.index].assign(**cells)


def read(found: Collection) -> Iterator[tuple[int, pd.DataFrame]]:
    """Yield each run (row in the table of runs) that enters the means, with its examples.

    Skip runs without examples.parquet, with corrupted pixels, or whose labels are all changed or
    all unchanged. `found.problems` gets a sentence for a damaged file.
    """
    judged = found.counted & found.runs["final_test_acc_noisy"].notna()
    for run, folder in found.runs.loc[judged, ["folder"]].itertuples():
        file = RunDir(Path(folder)).examples
        if not file.is_file():
            continue
        try:
            examples = pyarrow.parquet.read_table(file).to_pandas(ignore_metadata=True)
            if missing := [name for name in COLUMNS if name not in examples]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            if examples["changed"].dtype != bool:
                raise ValueError("changed must be true or false")
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            found.problems.append(f"{file} is skipped: damaged ({reason})")
            continue
        if examples["changed"].nunique() == 2:
            yield run, examples


def snapshots(examples: pd.DataFrame, kind: str) -> list[str]:
    """Return the columns of `kind`, loss or margin, after single epochs, in their order."""
    names = [name for name in map(str, examples) if name.startswith(f"{kind}_epoch_")]
    return sorted(names, key=lambda name: int(name.rpartition("_")[2]))


def suspicion(examples: pd.DataFrame) -> pd.DataFrame:
    """Return all scores of the examples (N,), float64, such that high values are suspicious.

    An example that was never learned ranks highest in `first_learned` and in `forgotten`, as in
    the code of Toneva et al. 2019. A score with NaN is left out.
    """
    scores = examples[[*SCORES, *snapshots(examples, "loss")]].astype(float)
    never = scores["first_learned"].isna()
    scores.loc[never, ["first_learned", "forgotten"]] = np.inf
    scores[LOW_IF_WRONG] *= -1
    return scores.dropna(axis="columns")


def auroc(score: pd.Series, changed: np.ndarray) -> float:
    """Return the probability (0..1) that a changed label has a higher score than an unchanged one.

    Ties count half. This is the area under the ROC curve (Mann-Whitney U from mean ranks).
    """
    n = changed.sum()
    return float((score.rank()[changed].mean() - (n + 1) / 2) / (len(changed) - n))


def missed(score: pd.Series, changed: np.ndarray) -> float:
    """Return the share (0..1) of the n changed labels not among the n highest scores.

    This is the measure of arXiv 2510.16211. Of tied scores at the threshold, as many as are needed
    are flagged at random; the value is the expectation.
    """
    n = int(changed.sum())
    threshold = score.nlargest(n).iloc[-1]
    above, tied = (score > threshold).to_numpy(), (score == threshold).to_numpy()
    found = changed[above].sum() + (n - above.sum()) * changed[tied].mean()
    return float(1 - found / n)
