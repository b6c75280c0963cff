"""Human label noise: the answers of people in the label files of CIFAR-10N and CIFAR-100N."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .label_file import LabelFile


@dataclass
class Human(LabelFile):
    """Each training label, independently with probability `corrupt`, becomes the file's.

    At corrupt = 1 the labels are those of the file. The test images were not relabelled: their
    labels stay true, and the noisy test metrics equal the true ones. Transition matrix:
    (1 - corrupt)·I + corrupt·Q, where Q is measured on the file. The levels are nested.

    Source: Wei et al. 2022 (CIFAR-10_human.pt, CIFAR-100_human.pt in UCSC-REAL/cifar-10-100n,
    in torchvision's order). Shares changed on CIFAR-10: aggre_label 9.01 %, random_label1
    17.23 %, random_label2 18.12 %, random_label3 17.64 %, worse_label 40.21 %; on CIFAR-100:
    noisy_label 40.20 %.

    path: the published file.
    which: its column; worse_label, aggre_label, random_label1, random_label2 or random_label3
        of CIFAR-10N, noisy_label of CIFAR-100N.
    """

    name: ClassVar[str] = "human"

    which: str | None = "worse_label"
