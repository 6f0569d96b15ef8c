"""Loading by name, the checks on what was loaded, and stratified parts."""

import numpy as np
import pytest

from sskd_jax.data import sources
from sskd_jax.types import UserError


def split(counts: tuple[int, ...] = (40, 80, 20)) -> sources.Split:
    """Images that hold their own position, so that no two are alike; `counts` per class."""
    label = (
        np.random.default_rng(0)
        .permutation(np.repeat(np.arange(len(counts)), counts))
        .astype(np.int32)
    )
    image = np.broadcast_to(
        np.arange(len(label), dtype=np.uint8)[:, None, None, None], (len(label), 2, 2, 3)
    )
    return sources.Split(image, label)


def where(part: sources.Split) -> set[int]:
    return set(part.image[:, 0, 0, 0].tolist())


def test_digits():
    data = sources.load("digits")
    assert data.num_classes == 10
    assert data.train.image.shape == (1347, 8, 8, 3) and data.test.image.shape == (450, 8, 8, 3)
    assert data.train.image.dtype == np.uint8 and data.train.label.dtype == np.int32
    assert data.train.image.min() == 0 and data.train.image.max() == 255
    assert (data.train.image[..., :1] == data.train.image).all()
    share = np.bincount(data.test.label) / (
        np.bincount(data.train.label) + np.bincount(data.test.label)
    )
    assert np.abs(share - 0.25).max() < 0.01


def test_digits_are_always_split_alike():
    first, second = sources.load("digits"), sources.load("digits")
    np.testing.assert_array_equal(first.test.image, second.test.image)
    assert first.test.label[:10].tolist() == second.test.label[:10].tolist()


def test_unknown_name():
    with pytest.raises(
        UserError, match="unknown dataset 'cifar00': did you mean 'cifar100'.* cifar10, digits"
    ):
        sources.load("cifar00")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(image=np.zeros((2, 4, 4, 3), np.float32)), "images are float32"),
        (dict(image=np.zeros((2, 4, 4, 1), np.uint8)), r"images are uint8\[2, 4, 4, 1\]"),
        (dict(image=np.zeros((2, 4, 5, 3), np.uint8)), "in place of square"),
        (dict(image=np.zeros((2, 4), np.uint8)), "in place of square"),
        (dict(label=np.zeros(2, np.int64)), "labels are int64"),
        (dict(label=np.zeros(3, np.int32)), r"in place of int32\[2\]"),
        (dict(image=np.zeros((0, 4, 4, 3), np.uint8), label=np.zeros(0, np.int32)), "no images"),
        (dict(label=np.int32([0, 10])), r"outside 0\.\.9"),
        (dict(label=np.int32([-1, 0])), r"outside 0\.\.9"),
    ],
)
def test_check_refuses(change, message):
    good = sources.Split(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int32))
    sources.check("toy", good, 10)
    with pytest.raises(UserError, match=f"^toy: .*{message}"):
        sources.check("toy", good._replace(**change), 10)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_subset_keeps_a_fraction_of_every_class(fraction):
    part = sources.subset(split(), fraction, seed=1)
    assert np.bincount(part.label).tolist() == [40 * fraction, 80 * fraction, 20 * fraction]
    assert len(where(part)) == len(part.label)
    np.testing.assert_array_equal(part.label, split().label[sorted(where(part))])


def test_subset_is_decided_by_the_seed_and_grows_with_the_fraction():
    quarter = sources.subset(split(), 0.25, seed=1)
    np.testing.assert_array_equal(quarter.image, sources.subset(split(), 0.25, seed=1).image)
    assert where(quarter) != where(sources.subset(split(), 0.25, seed=2))
    assert where(quarter) < where(sources.subset(split(), 0.5, seed=1))


def test_subset_keeps_one_image_of_every_class_at_least():
    assert np.bincount(sources.subset(split(), 0.01, seed=0).label).tolist() == [1, 1, 1]


def test_subset_of_all_is_the_split_itself():
    whole = split()
    assert sources.subset(whole, 1.0, seed=0) is whole


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, float("nan")])
def test_subset_refuses(fraction):
    with pytest.raises(UserError, match=f"is {fraction}: give one"):
        sources.subset(split(), fraction, seed=0)


def test_hold_out_is_stratified_disjoint_and_decided_by_the_seed():
    train, validation = sources.hold_out(split(), 0.1, seed=0)
    assert np.bincount(validation.label).tolist() == [4, 8, 2]
    assert where(train) | where(validation) == set(range(140)) and not where(train) & where(
        validation
    )
    assert where(validation) == where(sources.hold_out(split(), 0.1, seed=0)[1])
    assert where(validation) != where(sources.hold_out(split(), 0.1, seed=1)[1])


@pytest.mark.parametrize(
    "fraction, counts", [(0, (4, 4)), (1, (4, 4)), (0.999, (4, 4)), (0.1, (4, 1))]
)
def test_hold_out_refuses(fraction, counts):
    with pytest.raises(UserError, match=f"{fraction}"):
        sources.hold_out(split(counts), fraction, seed=0)
