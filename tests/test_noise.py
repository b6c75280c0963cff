"""Label noise: stated matrices against 50,000 draws, published maps, nested levels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from randlabels.corruption.asymmetric import Asymmetric, PairFlip
from randlabels.corruption.base import Mixture, frequencies
from randlabels.corruption.instance import Instance
from randlabels.corruption.uniform import Uniform, UniformCount, UniformExclusive

from .sources import balanced, make_source

KINDS = [
    *(Uniform(), Uniform(nested=True), UniformCount(), UniformExclusive()),
    *(PairFlip(), Asymmetric(), Instance()),
]


def name_of_kind(kind: object) -> str:
    return type(kind).__name__ + ("Nested" if getattr(kind, "nested", False) else "")


def matrix_by_hand(kind: object, corrupt: float) -> np.ndarray | None:
    """The matrix of ten classes written out by hand; None where it has no closed form."""
    confused = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
    matrix = np.zeros((10, 10))
    for i in range(10):
        for j in range(10):
            if isinstance(kind, Uniform | UniformCount):
                matrix[i, j] = corrupt / 10 + (1 - corrupt if i == j else 0)
            elif isinstance(kind, UniformExclusive):
                matrix[i, j] = 1 - corrupt if i == j else corrupt / 9
            elif isinstance(kind, PairFlip):
                matrix[i, j] = {i: 1 - corrupt, (i + 1) % 10: corrupt}.get(j, 0)
            elif isinstance(kind, Asymmetric):
                move = corrupt if i in confused else 0
                matrix[i, j] = {i: 1 - move, confused.get(i, i): move}.get(j, 0) if move else i == j
            else:
                return None
    return matrix


@pytest.mark.parametrize("corrupt", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS, ids=name_of_kind)
def test_empirical_transition_matrix_is_the_stated_one(kind: Mixture, corrupt: float) -> None:
    whole = make_source(balanced())
    given = kind.relabel(whole, corrupt)
    assert given.dtype == np.int64
    counts = np.zeros((10, 10))
    np.add.at(counts, (whole.labels, given), 1)
    stated = kind.transition(whole, corrupt)
    assert stated.dtype == np.float64 and (stated > -1e-12).all()
    np.testing.assert_allclose(stated.sum(1), 1)
    written = matrix_by_hand(kind, corrupt)
    if written is not None:
        np.testing.assert_allclose(stated, written, atol=1e-12)
    within = 4.5 * np.sqrt(np.maximum(stated * (1 - stated), 0) / 5_000)
    assert (np.abs(counts / 5_000 - stated) <= within + 1e-12).all()


@pytest.mark.parametrize("kind", KINDS[1:], ids=name_of_kind)
def test_levels_are_nested(kind: Mixture) -> None:
    whole = make_source(balanced(5_000))
    before = whole.labels
    for corrupt in (0.1, 0.3, 0.31, 0.6, 0.9, 1.0):
        given = kind.relabel(whole, corrupt)
        changed = before != whole.labels
        np.testing.assert_array_equal(given[changed], before[changed])
        assert np.count_nonzero(given != whole.labels) >= np.count_nonzero(changed)
        before = given


def test_uniform_is_nested_only_if_asked_and_then_corrupts_the_same_labels() -> None:
    whole = make_source(np.zeros(5_000, dtype=np.int64))
    low, high = (Uniform().relabel(whole, p) for p in (0.3, 0.6))
    assert (low[low > 0] != high[low > 0]).any()
    mask = np.random.RandomState(12345).rand(5_000) <= 0.3
    nested = Uniform(nested=True).relabel(whole, 0.3)
    assert (nested[~mask] == 0).all() and 0.85 < (nested[mask] > 0).mean() < 0.95


@pytest.mark.parametrize("kind", KINDS, ids=name_of_kind)
def test_draws_depend_on_the_seed_and_leave_labels_and_global_generators_alone(
    kind: Mixture,
) -> None:
    state = np.random.get_state()[1].copy()
    whole = make_source(balanced(1_000))
    first = kind.relabel(whole, 0.5)
    np.testing.assert_array_equal(whole.labels, balanced(1_000))
    np.testing.assert_array_equal(kind.relabel(whole, 0.5), first)
    assert (dataclasses.replace(kind, seed=7).relabel(whole, 0.5) != first).any()
    np.testing.assert_array_equal(np.random.get_state()[1], state)


# Maps of confused classes


def test_labels_that_went_from_cat_to_dog_do_not_go_back() -> None:
    """The published bug: a loop over classes in place flips some of them twice."""
    cats = make_source(np.full(1_000, 3))
    assert (Asymmetric().relabel(cats, 1.0) == 5).all()
    both = make_source(np.repeat([3, 5], 5_000))
    given = Asymmetric().relabel(both, 0.4)
    mask = np.random.RandomState(12345).rand(10_000) <= 0.4
    np.testing.assert_array_equal(given, np.where(mask, 8 - both.labels, both.labels))


def test_mnist_has_the_published_map() -> None:
    digits = make_source(balanced(10), dataset="mnist")
    assert Asymmetric().relabel(digits, 1.0).tolist() == [0, 1, 7, 8, 4, 6, 5, 1, 8, 9]


CIFAR100 = """
beaver dolphin otter seal whale; aquarium_fish flatfish ray shark trout;
orchid poppy rose sunflower tulip; bottle bowl can cup plate;
apple mushroom orange pear sweet_pepper; clock keyboard lamp telephone television;
bed chair couch table wardrobe; bee beetle butterfly caterpillar cockroach;
bear leopard lion tiger wolf; bridge castle house road skyscraper;
cloud forest mountain plain sea; camel cattle chimpanzee elephant kangaroo;
fox porcupine possum raccoon skunk; crab lobster snail spider worm;
baby boy girl man woman; crocodile dinosaur lizard snake turtle;
hamster mouse rabbit shrew squirrel; maple_tree oak_tree palm_tree pine_tree willow_tree;
bicycle bus motorcycle pickup_truck train; lawn_mower rocket streetcar tank tractor
"""
"""The superclasses by name, from the page of the data set; fine labels are in name order."""


def test_cifar100_goes_round_each_superclass_in_the_order_of_the_fine_labels() -> None:
    superclasses = [group.split() for group in CIFAR100.split(";")]
    names = sorted(name for group in superclasses for name in group)
    assert len(names) == len(set(names)) == 100
    expected = np.zeros(100, dtype=np.int64)
    for group in superclasses:
        for name, following in zip(group, group[1:] + group[:1], strict=True):
            expected[names.index(name)] = names.index(following)
    fine = make_source(np.arange(100), 100, dataset="cifar100")
    np.testing.assert_array_equal(Asymmetric().relabel(fine, 1.0), expected)


def test_data_set_without_a_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^corruption=asymmetric has no map .* for svhn; use "):
        Asymmetric().relabel(make_source(balanced(10), dataset="svhn"), 0.5)


def test_one_class_has_no_other_class_to_become() -> None:
    one = make_source(np.zeros(5), 1)
    for work in (UniformExclusive().relabel, UniformExclusive().transition):
        with pytest.raises(ValueError, match="^corruption=uniform_exclusive needs at least 2 clas"):
            work(one, 0.5)
    assert (Uniform().relabel(one, 1.0) == 0).all()


# Instance-dependent noise


def published_probabilities(labels: np.ndarray, pixels: np.ndarray, q: np.ndarray, kind: Instance):
    """The algorithm of Xia et al. 2020, image by image, with the weights of `kind`."""
    rng = stream_of_weights(kind)
    weights = [rng.standard_normal((pixels.shape[1], 10)) for _ in range(10)]
    found = np.zeros((len(labels), 10))
    for n, (y, x) in enumerate(zip(labels, pixels, strict=True)):
        v = x @ weights[y]
        others = [j for j in range(10) if j != y]
        e = np.exp(v[others] - v[others].max())
        found[n, others] = q[n] * e / e.sum()
        found[n, y] = 1 - q[n]
    return found


def stream_of_weights(kind: Instance) -> np.random.RandomState:
    from randlabels.corruption.base import stream

    return stream("instance/weights", kind.seed)


@pytest.mark.parametrize("inputs", ["stored", "unit"])
def test_instance_noise_equals_the_published_algorithm(inputs: str) -> None:
    from scipy.stats import truncnorm

    kind = Instance(inputs=inputs)
    whole = make_source(balanced(400))
    pixels = whole.images.reshape(400, -1) / (255.0 if inputs == "unit" else 1.0)
    rank, flip, choice = kind._draws(whole)
    q = truncnorm.ppf(rank, -0.3 / 0.1, 0.7 / 0.1, loc=0.3, scale=0.1)
    p = published_probabilities(whole.labels, pixels, q, kind)
    expected = whole.labels.copy()
    for n in np.flatnonzero(flip < q):
        others = p[n].copy()
        others[whole.labels[n]] = 0
        expected[n] = np.searchsorted(np.cumsum(others) / others.sum(), choice[n], side="right")
    np.testing.assert_array_equal(kind.relabel(whole, 0.3), expected)
    means = np.stack([p[whole.labels == i].mean(0) for i in range(10)])
    np.testing.assert_allclose(kind.transition(whole, 0.3), means, atol=1e-9)


def test_instance_noise_has_the_truncated_normals_mean_and_depends_on_the_image() -> None:
    from scipy.stats import truncnorm

    whole = make_source(balanced())
    for corrupt in (0.05, 0.4, 1.0):
        share = np.mean(Instance().relabel(whole, corrupt) != whole.labels)
        mean = truncnorm.mean(-corrupt / 0.1, (1 - corrupt) / 0.1, loc=corrupt, scale=0.1)
        assert abs(share - mean) < 4.5 * np.sqrt(mean * (1 - mean) / 50_000)
    same = make_source(
        np.zeros(5_000, dtype=np.int64), images=np.full((5_000, 1, 3, 3), 99, np.uint8)
    )
    given = Instance().relabel(same, 0.5)
    assert len(set(given.tolist())) == 2  # one image, one confusion: the softmax is almost hard


def test_train_and_test_share_the_confusions_but_not_the_draws() -> None:
    train, test = (make_source(balanced(), split=name) for name in ("train", "test"))
    assert (Instance().relabel(train, 0.5) != Instance().relabel(test, 0.5)).any()
    np.testing.assert_allclose(
        Instance().transition(train, 0.5), Instance().transition(test, 0.5), atol=0.02
    )


def test_a_class_without_images_keeps_the_identity() -> None:
    assert frequencies(np.array([0]), np.array([1]), 3).tolist() == [
        [0, 1, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]
    assert (
        Instance().transition(make_source(np.zeros(9)), 0.5)[3].tolist() == np.eye(10)[3].tolist()
    )
