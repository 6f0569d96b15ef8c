"""Loads datasets by name and checks them."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from sskd_jax.data import cifar, stream
from sskd_jax.data.prepared import root
from sskd_jax.data.stream import Feed, Stream
from sskd_jax.types import UserError, blamed, find


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
        """The images for which `chosen` bool[N] is true."""
        return Split(self.image[chosen], self.label[chosen])

    def relabel(self, label: np.ndarray) -> "Split":
        """The same images with other labels, i32[N]."""
        return self._replace(label=label)

    def resident(self, labelled: bool = False) -> dict[str, np.ndarray]:
        """The arrays that are resident on the device during training.

        They are all images and labels, whether `labelled` or not.
        """
        return self._asdict()

    def epoch(self, order: np.ndarray, place: np.ndarray, seed: int, start: int) -> Feed:
        """A feed with one dispatch per call, which gathers its images from the resident ones.

        Args:
          order: i32[devices, steps, n], the images of the steps.
          place: without effect, like seed and start: nothing is cropped on the host.
        """

        def feed(first: int, last: int) -> Iterator[tuple[np.ndarray, int, int]]:
            yield order, first, last

        return feed

    def in_order(
        self, index: np.ndarray, mask: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields `index` and `mask` [devices, batches, n] unchanged, all batches at once."""
        yield index, mask


class Dataset(NamedTuple):
    """Training images, test images, the number of classes of both, and their names, if known.

    `fingerprint` tells streamed images from others; see `prepared.fingerprint`.
    """

    train: Split | Stream
    test: Split | Stream
    num_classes: int
    classes: tuple[str, ...] = ()
    fingerprint: Mapping[str, str] = {}


def load(name: str, data_dir: str | None = None, **streaming: Any) -> Dataset:
    """Loads a dataset by name; arrays in memory are checked.

    Args:
      name: one of `LOADERS`, or "my_code:load", a function from data_dir to a `Dataset`; with
        `streaming`, any dataset that `stream.load` reads.
      data_dir: the folder of datasets; None: that of tfds.
      **streaming: the keywords of `stream.load`. If there are any, images are decoded when they
        are needed.

    Raises:
      UserError: the dataset is unknown, absent, damaged, or of another kind, or code of a user's is
        to be streamed.
    """
    if streaming:
        if name in LOADERS:
            raise UserError(
                f"the images of {name} are no JPEGs, which alone are streamed: take "
                f"--config=configs/cifar.py:dataset={name}"
            )
        if name.partition(":")[2].isidentifier():  # not a version, as in food101:2.0.0
            raise UserError(
                f"the dataset {name!r} is loaded into memory, and this config streams prepared "
                "images: take configs/cifar.py, or prepare a folder of images"
            )
        return Dataset(*stream.load(name, data_dir, **streaming))
    if name.isidentifier() and name not in LOADERS and (root(data_dir) / name).is_dir():
        raise UserError(
            f"the images of {name} are streamed as they were prepared: take "
            f"--config=configs/imagenet.py:dataset={name}"
        )
    loader = find(LOADERS, name, "dataset")
    dataset = own_dataset(name, loader, data_dir) if ":" in name else loader(data_dir)
    check(f"{name}, train", dataset.train, dataset.num_classes)
    check(f"{name}, test", dataset.test, dataset.num_classes)
    train, test = (split.shape for split in (dataset.train, dataset.test))
    if train != test:
        raise UserError(
            f"{name}: the training images are {list(train)}, and the test images {list(test)}: "
            "bring them to one size"
        )
    return dataset


def own_dataset(
    name: str, loader: Callable[[str | None], Dataset], data_dir: str | None
) -> Dataset:
    """The result of a user's function, with lists as arrays.

    Raises:
      UserError: the function fails, returns no `Dataset`, or holds what makes no array.
    """
    with blamed("the dataset", [name]):
        found = loader(data_dir)
    if not isinstance(found, Dataset):
        raise UserError(
            f"the dataset {name!r} is a {type(found).__name__}, in place of a Dataset of "
            "sskd_jax.data.sources"
        )
    for split in (found.train, found.test):
        if not isinstance(split, Split):
            raise UserError(
                f"the dataset {name!r} holds a {type(split).__name__}, in place of a Split of "
                "sskd_jax.data.sources"
            )
    if not isinstance(found.num_classes, int | np.integer):
        raise UserError(
            f"the dataset {name!r} has num_classes={found.num_classes!r}: give a whole number"
        )
    try:
        train, test = (
            Split(np.asarray(split.image), as_labels(split.label))
            for split in (found.train, found.test)
        )
    except ValueError as error:  # images of several sizes
        raise UserError(
            f"the dataset {name!r} has images or labels that make no array: {error}"
        ) from error
    num_classes = int(found.num_classes)
    classes = tuple(map(str, () if found.classes is None else found.classes))
    if len(classes) not in (0, num_classes):
        raise UserError(
            f"the dataset {name!r} names {len(classes)} classes and has {num_classes}: give a name "
            "for each, or none"
        )
    return found._replace(train=train, test=test, num_classes=num_classes, classes=classes)


def as_labels(labels: Any) -> np.ndarray:
    """Labels as an array; of a list of whole numbers, int32."""
    array = np.asarray(labels)
    is_list = isinstance(labels, list | tuple) and array.dtype.kind == "i"
    return array.astype(np.int32) if is_list else array


def check(where: str, split: Split, num_classes: int) -> None:
    """Refuses arrays with which training would run without an error, but be meaningless.

    Raises:
      UserError: images are not square uint8[N, H, H, 3], labels are not int32[N] in
        [0, num_classes), or there are none; the text begins with `where`.
    """
    image, label = split
    square_rgb = image.ndim == 4 and image.shape[1] == image.shape[2] and image.shape[3] == 3
    if image.dtype != np.uint8 or not square_rgb:
        raise UserError(
            f"{where}: images are {image.dtype}{list(image.shape)} in place of square "
            "uint8[N, H, H, 3]"
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


def _cifar(name: str, num_classes: int, data_dir: str | None) -> Dataset:
    """CIFAR-10 or CIFAR-100, in the order of the official files."""
    arrays, classes = cifar.read(name, data_dir)
    train, test = (Split(arrays[f"{part}_image"], arrays[f"{part}_label"]) for part in cifar.SPLITS)
    return Dataset(train, test, num_classes, classes)


def _digits(data_dir: str | None) -> Dataset:
    """scikit-learn's 1797 digits, uint8[N, 8, 8, 3] in grey; a quarter of every class is for tests.

    They are part of scikit-learn, so `data_dir` is not used.
    """
    from sklearn import datasets, model_selection

    digits = datasets.load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    image, label = np.repeat(grey[..., None], 3, axis=3), digits.target.astype(np.int32)
    train_image, test_image, train_label, test_label = model_selection.train_test_split(
        image, label, test_size=0.25, stratify=label, random_state=0
    )
    train, test = Split(train_image, train_label), Split(test_image, test_label)
    return Dataset(train, test, num_classes=10, classes=tuple("0123456789"))


LOADERS: dict[str, Callable[[str | None], Dataset]] = {
    "cifar100": functools.partial(_cifar, "cifar100", 100),
    "cifar10": functools.partial(_cifar, "cifar10", 10),
    "digits": _digits,
}
