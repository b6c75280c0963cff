"""The closed form of Figure 1c: the error on noisy test labels, from that on true labels.

docs/metrics.md derives it and says where it does not hold.
"""

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from .published import SET_SIZES
from .runs import SEEDS, Collection
from .tables import at_true_labels, configurations, label, override

# The maps of corruption=asymmetric. On CIFAR-100 its classes move in cycles: T is that of pair_flip
# in another order, with the same closed form.
CONFUSED = {"cifar10": {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}, "mnist": {7: 1, 2: 7, 3: 8, 5: 6, 6: 5}}


def noisy_error(clean_error: float, transition: np.ndarray) -> float:
    """Return the error (0..1) on test labels that are corrupted as the labels trained on.

    clean_error: error (0..1) of the network on true labels, trained on true labels.
    transition: T, (K, K): the share of each label j per true label i.
    """
    agreement = transition @ transition.T  # of two labels, corrupted independently
    same = agreement.diagonal().mean()
    others = max(1, agreement.size - len(agreement))
    other = (agreement.sum() - agreement.trace()) / others
    return float(1 - (1 - clean_error) * same - clean_error * other)


def transition(corruption: str, dataset: str, corrupt: float, classes: float) -> np.ndarray | None:
    """Return T of a corruption, (K, K) with rows that sum to 1; None where none is known."""
    same = np.eye(int(classes))
    if corruption in ("uniform", "uniform_count"):
        target = np.full_like(same, 1 / classes)
    elif corruption == "uniform_exclusive":
        target = (1 - same) / (classes - 1)
    elif corruption == "pair_flip" or (corruption, dataset) == ("asymmetric", "cifar100"):
        target = np.roll(same, 1, axis=1)
    elif corruption == "asymmetric" and dataset in CONFUSED:
        target = same[[CONFUSED[dataset].get(i, i) for i in range(len(same))]]
    else:
        return None
    return (1 - corrupt) * same + corrupt * target


def noisy_errors(found: Collection) -> pd.DataFrame:
    """Return the table of configurations with the closed form in `theory`, 0..1.

    `theory_interval` is the half width of the 95 % interval of its mean over the seeds (Student's
    t). Both are missing where no transition matrix is known, or no run on true labels is done.
    """
    table, configuration = configurations(found)
    clean, deviation, n = at_true_labels(found, table, 1 - found.runs["final_test_acc"])
    classes = found.runs["classes"].groupby(configuration).first()
    ends = []  # the closed form is linear in the clean error
    for row in table.assign(classes=classes).to_dict("records"):
        chosen = {key: row[key] for key in ("corruption", "dataset", "corrupt", "classes")}
        matrix = transition(**chosen) if pd.notna(row["classes"]) else None
        ends.append([np.nan if matrix is None else noisy_error(end, matrix) for end in (0.0, 1.0)])
    low, high = np.array(ends).T
    spread = np.abs(high - low) * deviation
    interval = stdtrit(n - 1, 0.975) * spread / np.sqrt(n)
    return table.assign(theory=low + (high - low) * clean, theory_interval=interval)


def numbers(found: Collection) -> pd.DataFrame:
    """Return the closed form of each configuration with corrupted labels, in the columns of
    `published.read`, for data sets whose number of test images is known."""
    table = noisy_errors(found).dropna(subset="theory")
    table = table[(table["corrupt"] > 0) & table["dataset"].isin(SET_SIZES)]
    keys = [key for key in found.swept if key not in SEEDS]
    sizes = table["dataset"].map({name: test for name, (_, test) in SET_SIZES.items()})
    for key in ("dataset.holdout", "dataset.test_size"):
        if key in found.keys:
            subset = found.runs[key].groupby(configurations(found)[1]).first()
            sizes = subset.reindex(table.index).fillna(sizes)
    pairs = [[(key, row[key]) for key in keys] for row in table.to_dict("records")]
    return pd.DataFrame(
        {
            "source": "theory",
            "row": [", ".join(label(*pair) for pair in row) for row in pairs],
            "keys": [" ".join(f"{key}={override(value)}" for key, value in row) for row in pairs],
            "corrupt": table["corrupt"],
            "metric": "test_error_noisy",
            "epoch": "last",
            "value": table["theory"],
            "uncertainty": table["theory_interval"],
            "dataset": table["dataset"],
            "test_size": sizes,
            "chosen": "",
            "note": "",
        }
    ).reset_index(drop=True)
