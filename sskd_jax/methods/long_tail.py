"""What methods for long tails share: scores by frequency, a balanced order, other classifiers.

By the number of its training images a class is frequent, medium or rare (Liu et al., Large-Scale
Long-Tailed Recognition in an Open World, CVPR 2019).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from sskd_jax.axis import everywhere
from sskd_jax.methods.common import Scores, classification_scores
from sskd_jax.types import Array, Batch, Binned, Nets, Params, UserError
from sskd_jax.views import once

Shuffle = Callable[[list[Any]], None]  # in place

CALIBRATION_BINS = 15  # of equal width, as is usual
PER_VISIT = 2  # how many images of a class a balanced order takes at a time


class Scales(nn.Module):
    """Multiplies each class's logit [n, K] by a learned factor, which is 1 at the start."""

    @nn.compact
    def __call__(self, logits: Array, train: bool = False) -> Array:
        return logits * self.param("scale", nn.initializers.ones, logits.shape[-1:])[None]


class Classifier(NamedTuple):
    """A network's last layer: kernel f32[E, K], and bias f32[K], or None for none."""

    kernel: Array
    bias: Array | None


def kernel_path(network: Params, *shape: int) -> tuple[str, ...]:
    """The place of a classifier's kernel [E, K] in the params of a network.

    Args:
      network: its params.
      shape: E and K, or K alone if E is not known.

    Raises:
      UserError: there is none, or there are several matrices that may be it.
    """
    leaves = flatten_dict(network).items()
    matrices = {path: leaf.shape for path, leaf in leaves if leaf.ndim == 2}
    found = [path for path, sides in matrices.items() if sides[-len(shape) :] == shape]
    if len(found) != 1:
        kernel = ", ".join(map(str, ("E", *shape)[-2:]))
        raise UserError(
            f"LDAM, cRT and LWS replace a student's classifier, a kernel [{kernel}], and this "
            f"student has {len(found)} of them: choose another network"
        )
    return found[0]


def classifier_of(network: Params, num_classes: int) -> Classifier:
    """The classifier in the params of a network; raises a `UserError` as `kernel_path`."""
    path, leaves = kernel_path(network, num_classes), flatten_dict(network)
    return Classifier(leaves[path], leaves.get((*path[:-1], "bias")))


def with_classifier(network: Params, classifier: Classifier) -> Params:
    """The params of a network with another classifier; raises a `UserError` as `kernel_path`.

    The network has a bias as before: that of the classifier, 0 in place of None, or none.
    """
    path, leaves = kernel_path(network, *classifier.kernel.shape), flatten_dict(network)
    new, bias = {path: classifier.kernel}, (*path[:-1], "bias")
    if bias in leaves:
        new[bias] = jnp.zeros_like(leaves[bias]) if classifier.bias is None else classifier.bias
    return unflatten_dict(leaves | new)


def groups(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The groups "many", "medium" and "few" of the classes, bool[K] each, by their counts [K].

    A class without an image is in none. A group without a class is left out.
    """
    many, few = counts > 100, (counts > 0) & (counts < 20)
    named = {"many": many, "medium": (counts >= 20) & ~many, "few": few}
    return {name: members for name, members in named.items() if members.any()}


def by_frequency(logits: Array, batch: Batch) -> Mapping[str, Any]:
    """Scores of logits [N, K]: accuracy over all classes and over each group, and calibration.

    The latter is the confidence and the expected calibration error.
    """
    scores = classification_scores(logits, batch.label)
    confidence = jax.nn.softmax(logits).max(-1)
    trust = {"confidence": confidence, "ece": calibration_error(confidence, scores["top1"])}
    parts = {
        name: (scores["top1"], jnp.asarray(members)[batch.label])
        for name, members in groups(batch.counts()).items()
    }
    return scores | parts | trust


def calibration_error(confidence: Array, hit: Array) -> Binned:
    """Expected calibration error (Guo et al., On Calibration of Modern Neural Networks, ICML 2017).

    It compares confidence [N] with hits [N], which are 0 or 1, in bins of confidence.
    """
    place = jnp.ceil(confidence * CALIBRATION_BINS).astype(jnp.int32) - 1
    place = jnp.clip(place, 0, CALIBRATION_BINS - 1)
    return Binned(confidence - hit, place, CALIBRATION_BINS)


def frequency_scores(net: str) -> Scores:
    """The scores `by_frequency` of a net that classifies."""

    def scores(nets: Nets, batch: Batch) -> Mapping[str, Any]:
        return by_frequency(everywhere(nets[net](batch.see(once)).logits), batch)

    return scores


def balanced(rng: np.random.Generator, images: Any, epoch: int) -> np.ndarray:
    """An order of as many images as there are, in which all classes occur equally often."""
    initial = rng.permutation(images.size)
    return class_balanced(initial, images.label, rng.shuffle)


def class_balanced(initial: Sequence[int], label: np.ndarray, shuffle: Shuffle) -> np.ndarray:
    """An order i64[M] in which classes take turns, each with its next two images.

    Args:
      initial: all images, in their order before the first shuffle of each class.
      label: of every image, by its number.
      shuffle: shuffles a list in place.
    """
    members: dict[int, list[int]] = {}
    for image in initial:
        members.setdefault(int(label[image]), []).append(int(image))
    of_class = {kind: endless(images, shuffle) for kind, images in members.items()}
    classes, order = endless(sorted(members), shuffle), []
    while len(order) < len(label):
        chosen = of_class[next(classes)]
        order.extend(next(chosen) for _ in range(PER_VISIT))
    return np.asarray(order[: len(label)])


def endless(items: list[Any], shuffle: Shuffle) -> Iterator[Any]:
    """Yields the items again and again; `items` is shuffled in place before each round."""
    while True:
        shuffle(items)
        yield from items
