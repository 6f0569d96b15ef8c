"""Few labels, wrong labels and long tails: exact counts, decided by the seed alone."""

import zlib

import numpy as np
import pytest

from sskd_jax.data import scenarios, sources
from sskd_jax.data.scenarios import scenario
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


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_share_of_every_class_is_kept_in_order(share):
    part = scenario(split(), seed=1, share=share)
    assert np.bincount(part.label).tolist() == [40 * share, 80 * share, 20 * share]
    assert len(where(part)) == len(part.label)
    np.testing.assert_array_equal(part.label, split().label[sorted(where(part))])


def test_a_share_is_decided_by_the_seed_and_part_of_a_larger_one():
    quarter = scenario(split(), seed=1, share=0.25)
    np.testing.assert_array_equal(quarter.image, scenario(split(), seed=1, share=0.25).image)
    assert where(quarter) != where(scenario(split(), seed=2, share=0.25))
    assert where(quarter) < where(scenario(split(), seed=1, share=0.5))


def test_one_image_of_every_class_is_kept_at_least():
    assert np.bincount(scenario(split(), seed=0, share=0.01).label).tolist() == [1, 1, 1]
    assert np.bincount(scenario(split(), seed=0, imbalance=1e6).label).tolist() == [40, 1, 1]


def test_nothing_asked_for_is_the_split_itself():
    whole = split()
    assert scenario(whole, seed=0) is whole


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("noise", [0.1, 0.3, 0.5])
def test_a_share_of_the_labels_of_every_class_is_wrong(noise, share):
    """Exactly so many of those that are kept, too, and nothing else changes."""
    part = scenario(split(), seed=3, share=share, noise=noise)
    clean = scenario(split(), seed=3, share=share)
    np.testing.assert_array_equal(part.image, clean.image)
    assert part.label.dtype == np.int32 and set(part.label) == {0, 1, 2}
    wrong = np.bincount(clean.label[part.label != clean.label])
    counts = np.bincount(clean.label)
    assert wrong.tolist() == np.floor(noise * counts + 0.5).tolist()


def test_wrong_labels_are_any_of_the_others_and_alike_in_every_share():
    label = np.repeat(np.arange(10), 1000).astype(np.int32)
    whole = sources.Split(np.zeros((10_000, 1, 1, 3), np.uint8), label)
    noisy = scenario(whole, seed=0, noise=0.5)
    found = np.bincount(10 * label + noisy.label).reshape(10, 10)
    assert np.diag(found).tolist() == [500] * 10
    others = found[~np.eye(10, dtype=bool)]
    assert others.min() > 30 and others.max() < 85  # 500 / 9 each, on average
    kept = scenarios.stratified(label, 0.3, seed=0)
    few = scenario(whole, seed=0, noise=0.5, share=0.3)
    np.testing.assert_array_equal(few.label, noisy.label[kept])
    assert (scenario(whole, seed=1, noise=0.5).label != noisy.label).any()


def test_labels_of_one_class_cannot_be_wrong():
    with pytest.raises(UserError, match="images.noise needs two classes"):
        scenario(split((4,)), seed=0, noise=0.5)


def crc32(index: np.ndarray) -> int:
    return zlib.crc32(np.asarray(index, "<i8").tobytes())


@pytest.mark.parametrize("imbalance", [100, 50, 10])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_long_tail_is_the_one_that_papers_use(name, imbalance, shared):
    """Counts, and checksums of the images, both of seed 0."""
    golden = np.load(shared / "golden" / "ssd_lt.npz")
    expected = {
        key: golden[f"split/{name}_if{imbalance}/{key}"]
        for key in ("count", "total", "rank_crc32", "index_crc32", "sorted_crc32")
    }
    i = np.arange(50_000)
    label = (7 * i + i // 10) % 10 if name == "cifar10" else i % 100
    chosen = scenarios.long_tail(label, imbalance, seed=0)
    assert np.bincount(label[chosen]).tolist() == expected["count"].tolist()
    assert chosen.sum() == expected["total"]
    members = list(scenarios.shuffled_classes(label, seed=0))
    taken = [own[:count] for own, count in zip(members, expected["count"], strict=True)]
    ranks = [np.searchsorted(np.sort(all_), own) for all_, own in zip(members, taken, strict=True)]
    assert crc32(np.concatenate(ranks)) == expected["rank_crc32"]
    np.testing.assert_array_equal(np.sort(np.concatenate(taken)), np.flatnonzero(chosen))
    if name == "cifar10":  # the others belong to the order of the official files
        assert crc32(np.concatenate(taken)) == expected["index_crc32"]
        assert crc32(np.flatnonzero(chosen)) == expected["sorted_crc32"]


def test_few_wrong_labels_of_a_long_tail():
    part = scenario(split((100, 100, 100)), seed=0, share=0.5, noise=0.2, imbalance=4)
    clean = scenario(split((100, 100, 100)), seed=0, share=0.5, imbalance=4)
    assert np.bincount(clean.label).tolist() == [50, 25, 12]
    wrong = np.bincount(clean.label[part.label != clean.label])
    assert wrong.tolist() == [10, 5, 2]


def test_hold_out_is_stratified_disjoint_and_decided_by_the_seed():
    train, validation = scenarios.hold_out(split(), 0.1, seed=0)
    assert np.bincount(validation.label).tolist() == [4, 8, 2]
    assert where(train) | where(validation) == set(range(140)) and not where(train) & where(
        validation
    )
    assert where(validation) == where(scenarios.hold_out(split(), 0.1, seed=0)[1])
    assert where(validation) != where(scenarios.hold_out(split(), 0.1, seed=1)[1])


@pytest.mark.parametrize("share, counts", [(0.999, (4, 4)), (0.1, (4, 1))])
def test_hold_out_refuses(share, counts):
    with pytest.raises(UserError, match=f"{share}"):
        scenarios.hold_out(split(counts), share, seed=0)
