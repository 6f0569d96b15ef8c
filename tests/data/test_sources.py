"""Loading by name, and the checks on what was loaded."""

import numpy as np
import pytest

from sskd_jax.data import sources
from sskd_jax.types import UserError


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


def test_lists_and_counts_of_ones_own_become_arrays_and_whole_numbers():
    image, label = [np.zeros((4, 4, 3), np.uint8)] * 2, [0, 1]
    own = sources.Split(image, label)
    data = sources.own_dataset("own", lambda _: sources.Dataset(own, own, np.int32(2)), None)
    assert data.train.image.shape == (2, 4, 4, 3) and data.test.label.dtype == np.int32
    assert type(data.num_classes) is int


def test_both_splits_have_images_of_one_size(monkeypatch):
    small, large = (
        sources.Split(np.zeros((2, side, side, 3), np.uint8), np.zeros(2, np.int32))
        for side in (4, 8)
    )
    monkeypatch.setitem(sources.LOADERS, "odd", lambda _: sources.Dataset(small, large, 10))
    message = r"odd: the training images are \[4, 4, 3\], and the test images \[8, 8, 3\]: bring"
    with pytest.raises(UserError, match=message):
        sources.load("odd", None)


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
