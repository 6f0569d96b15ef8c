"""Which training images a stage sees, and with which labels: few, long-tailed or partly wrong.

Everything depends only on the labels and a seed, not on the images or the number of processes.
"""

from collections.abc import Iterator

import numpy as np

from sskd_jax.data.sources import Split
from sskd_jax.data.stream import Stream
from sskd_jax.types import UserError


def scenario(
    split: Split | Stream,
    seed: int,
    *,
    share: float = 1.0,
    noise: float = 0.0,
    imbalance: float = 1.0,
) -> Split | Stream:
    """The images from which a stage learns, in the order of `split`, with the labels that it gets.

    For the same seed and imbalance, an image has the same label whatever the share, and a smaller
    share is a subset of a larger one.

    Args:
      split: all training images.
      seed: of all random draws.
      share: of every class, in (0, 1], that is kept; at least one image.
      noise: the share of the labels of every class, in [0, 1), that become those of other classes.
      imbalance: how many times as many images the first class has as the last one; 1 changes
        nothing.

    Raises:
      UserError: there is noise, but only one class.
    """
    if imbalance > 1:
        split = split.take(long_tail(split.label, imbalance, seed))
    kept = None if share == 1 else stratified(split.label, share, seed)
    if noise:
        split = split.relabel(noisy(split.label, noise, seed))
    return split if kept is None else split.take(kept)


def hold_out(
    split: Split | Stream, share: float, seed: int
) -> tuple[Split | Stream, Split | Stream]:
    """(training images, validation images); the latter are a random share of every class.

    At least one image of every class is held out.

    Raises:
      UserError: the share, in (0, 1), leaves nothing of a class to train on.
    """
    held_out = stratified(split.label, share, seed)
    kept = set(np.unique(split.label[~held_out]))
    for label, count in zip(*np.unique(split.label, return_counts=True), strict=True):
        if label not in kept:
            raise UserError(
                f"holding out {share} of the training images leaves a class without any: hold out "
                f"{'none' if count == 1 else 'fewer'} (class {label} has {count})"
            )
    return split.take(~held_out), split.take(held_out)


def shuffled_classes(label: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yields the indices of every class's images in random order, the lowest class first."""
    random = np.random.RandomState(seed)  # it gives the same numbers in every version of NumPy
    for value in np.unique(label):
        yield random.permutation(np.flatnonzero(label == value))


def stratified(label: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool[N], true for a random share of every class, at least one image."""
    chosen = np.zeros(len(label), bool)
    for members in shuffled_classes(label, seed):
        chosen[members[: max(1, round(share * len(members)))]] = True
    return chosen


def long_tail(label: np.ndarray, imbalance: float, seed: int) -> np.ndarray:
    """bool[N], true for fewer images of each successive class, at least one.

    Of the i-th of K classes (from 0), int(N / K * imbalance ** (-i / (K - 1))) images remain: the
    rule of Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
    NeurIPS 2019. In their code, CIFAR-10-LT and CIFAR-100-LT are the images of seed 0.
    """
    chosen, classes = np.zeros(len(label), bool), len(np.unique(label))
    for i, members in enumerate(shuffled_classes(label, seed)):
        # This order of operations avoids rounding errors by which int() would lose one image.
        count = int(len(label) / classes * (1 / imbalance) ** (i / max(1, classes - 1)))
        chosen[members[: max(1, count)]] = True
    return chosen


def noisy(label: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """i32[N], the labels, of which a share in every class is replaced by random other classes.

    The wrong labels are spread evenly over the order in which `stratified` takes the images of a
    class, so that any share of these images has the same share of wrong labels.

    Raises:
      UserError: there is only one class.
    """
    classes, place = np.unique(label, return_inverse=True)
    if len(classes) == 1:
        raise UserError("images.noise needs two classes: the images are all of one")
    wrong = np.zeros(len(label), bool)
    for members in shuffled_classes(label, seed):
        among_first = np.floor(noise * np.arange(len(members) + 1) + 0.5)
        wrong[members[np.diff(among_first) > 0]] = True
    steps = np.random.RandomState([seed, 1]).randint(1, len(classes), len(label))
    others = classes[(place + steps) % len(classes)]
    return np.where(wrong, others, label).astype(np.int32)
