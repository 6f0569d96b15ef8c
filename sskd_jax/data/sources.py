"""Datasets by name, checked, and stratified parts of them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from sskd_jax.data import cifar, stream
from sskd_jax.data.stream import Feed, Stream
from sskd_jax.types import UserError, choose


class Split(NamedTuple):
    """Images that fit into a device's memory: image uint8[N, H, W, 3] and label int32[N]."""

    image: np.ndarray
    label: np.ndarray

    @property
    def size(self) -> int:
        return len(self.label)

    @property
    def shape(self) -> tuple[int, ...]:
        """[H, W, C] of an image."""
        return self.image.shape[1:]

    def take(self, chosen: np.ndarray) -> "Split":
        """The images where bool[N] says so."""
        return Split(self.image[chosen], self.label[chosen])

    def resident(self, labelled: bool = True) -> dict[str, np.ndarray]:
        """What lies on the device while a stage is trained."""
        return self._asdict()

    def epoch(self, order: np.ndarray, place: np.ndarray, seed: int, start: int) -> Feed:
        """Dispatches of any number of the steps in `order` i32[devices, steps, n], which all use what is resident."""
        return lambda start, stop: iter([(order, start, stop)])

    def in_order(
        self, index: np.ndarray, mask: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All batches of `index` and `mask` [devices, batches, n] at once."""
        yield index, mask


class Dataset(NamedTuple):
    """What is trained on, what is tested on, and the number of classes of both."""

    train: Split | Stream
    test: Split | Stream
    num_classes: int


def load(name: str, data_dir: str | None = None, **streaming: Any) -> Dataset:
    """The dataset called `name`, from `data_dir` or else from where tfds keeps its datasets.

    With `streaming`, the keywords of `stream.load`, its images are decoded while they are needed.
    """
    if streaming:
        return Dataset(*stream.load(name, data_dir, **streaming))
    dataset = choose(LOADERS, name, "dataset")(data_dir)
    check(f"{name}, train", dataset.train, dataset.num_classes)
    check(f"{name}, test", dataset.test, dataset.num_classes)
    return dataset


def subset(split: Split | Stream, fraction: float, seed: int) -> Split | Stream:
    """A random `fraction` of every class, one image at least, in the order of `split`.

    With the same seed a smaller fraction is part of a larger one.
    """
    if not 0 < fraction <= 1:
        raise UserError(
            f"the fraction of the training images to keep is {fraction}: give one in (0, 1], 1 keeps all"
        )
    return split if fraction == 1 else split.take(_draw(split.label, fraction, seed))


def subset_size(split: Split | Stream, fraction: float) -> int:
    """The number of images that `subset` keeps."""
    if fraction == 1:
        return split.size
    return sum(_share(fraction, count) for count in np.unique(split.label, return_counts=True)[1])


def hold_out(
    split: Split | Stream, fraction: float, seed: int
) -> tuple[Split | Stream, Split | Stream]:
    """Splits (train, validation), where validation is a random `fraction` of every class, one image at least."""
    if not 0 < fraction < 1:
        raise UserError(
            f"the fraction of the training images to hold out is {fraction}: give one between 0 and 1"
        )
    held = _draw(split.label, fraction, seed)
    if len(np.unique(split.label[~held])) < len(np.unique(split.label)):
        raise UserError(
            f"holding out {fraction} of the training images leaves a class without any: hold out fewer"
        )
    return split.take(~held), split.take(held)


def check(where: str, split: Split, num_classes: int) -> None:
    """Refuses what would train without a complaint and mean nothing."""
    image, label = split
    if (
        image.dtype != np.uint8
        or image.ndim != 4
        or image.shape[1] != image.shape[2]
        or image.shape[3] != 3
    ):
        raise UserError(
            f"{where}: images are {image.dtype}{list(image.shape)} in place of square uint8[N, H, H, 3]"
        )
    if label.dtype != np.int32 or label.shape != image.shape[:1]:
        raise UserError(
            f"{where}: labels are {label.dtype}{list(label.shape)} in place of int32[{len(image)}]"
        )
    if not len(image):
        raise UserError(f"{where}: there are no images")
    if label.min() < 0 or label.max() >= num_classes:
        raise UserError(
            f"{where}: labels run from {label.min()} to {label.max()}, outside 0..{num_classes - 1}"
        )


def _draw(label: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """bool[N]: `fraction` of every class, one at least. RandomState, because its stream is the same in every numpy."""
    random, chosen = np.random.RandomState(seed), np.zeros(len(label), bool)
    for value in np.unique(label):
        member = random.permutation(np.flatnonzero(label == value))
        chosen[member[: _share(fraction, len(member))]] = True
    return chosen


def _share(fraction: float, count: int) -> int:
    return max(1, round(fraction * count))


def _cifar(name: str, num_classes: int, data_dir: str | None) -> Dataset:
    """CIFAR as tfds prepared it, in the order of the official files."""
    arrays = cifar.read(name, data_dir)
    train, test = (Split(arrays[f"{part}_image"], arrays[f"{part}_label"]) for part in cifar.SPLITS)
    return Dataset(train, test, num_classes)


def _digits(data_dir: str | None) -> Dataset:
    """scikit-learn's 1797 digits of 8x8 pixels, which need no folder; a quarter of every class is the test split."""
    from sklearn import datasets, model_selection

    digits = datasets.load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    image, label = np.repeat(grey[..., None], 3, axis=3), digits.target.astype(np.int32)
    parts = model_selection.train_test_split(
        image, label, test_size=0.25, stratify=label, random_state=0
    )
    return Dataset(Split(parts[0], parts[2]), Split(parts[1], parts[3]), num_classes=10)


LOADERS: dict[str, Callable[[str | None], Dataset]] = {
    "cifar100": functools.partial(_cifar, "cifar100", 100),
    "cifar10": functools.partial(_cifar, "cifar10", 10),
    "digits": _digits,
}
