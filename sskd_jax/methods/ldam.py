"""Label-Distribution-Aware Margin loss (Cao et al., Learning Imbalanced Datasets, NeurIPS 2019).

As released, with deferred re-weighting (LDAM-DRW). Shapes: N images, E width of the embedding, K
classes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from sskd_jax.axis import everywhere
from sskd_jax.losses import accuracy, normalized, product
from sskd_jax.methods.long_tail import Classifier, by_frequency, with_classifier
from sskd_jax.rules import BelowOne, Index, NotNegative, Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Params, Stage, learns
from sskd_jax.views import once


class Cosines(nn.Module):
    """Cosines [n, K] of embed [n, E] with a learned vector for each class of `logits` [n, K]."""

    @nn.compact
    def __call__(self, embed: Array, logits: Array, train: bool = False) -> Array:
        shape = (logits.shape[-1], embed.shape[-1])
        vectors = self.param("kernel", unit_vectors, shape)
        return product(normalized(embed), normalized(vectors).T)


def unit_vectors(key: Array, shape: tuple[int, ...]) -> Array:
    """Rows [K, E] of numbers that are uniform in [-1, 1], scaled to length 1."""
    return normalized(jax.random.uniform(key, shape, minval=-1.0, maxval=1.0))


def margins(counts: np.ndarray, largest: float) -> np.ndarray:
    """The margin of each class [K], proportional to count^(-1/4); the largest one is `largest`."""
    ratio = np.maximum(counts, 1) ** -0.25
    return largest * ratio / ratio.max()


def class_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """Weights of the classes [K] by the effective number of their images; their mean is 1.

    Class-Balanced Loss Based on Effective Number of Samples (Cui et al., CVPR 2019).
    """
    weights = (1 - beta) / (1 - beta ** np.maximum(counts, 1))
    return weights / weights.mean()


def margin_loss(
    cosine: Array, label: Array, margin: np.ndarray, weight: Array, scale: float
) -> Array:
    """Cross-entropy of scaled cosines [N, K], with margin[label] subtracted from the label's.

    It is the mean over the rows, weighted by weight[label]; margin and weight are [K].
    """
    lacking = jax.nn.one_hot(label, cosine.shape[1]) * jnp.asarray(margin, jnp.float32)[None]
    rows = optax.softmax_cross_entropy_with_integer_labels(scale * (cosine - lacking), label)
    weights = weight[label]
    return jnp.sum(weights * rows) / jnp.sum(weights)


def with_cosines(params: Params) -> Params:
    """The params in which the student's classifier [E, K] holds the class vectors, without a bias.

    So the trained network ranks the classes as the cosines do, wherever it is used.
    """
    vectors = Classifier(normalized(params["cosines"]["kernel"]).T, bias=None)
    return {**params, "student": with_classifier(params["student"], vectors)}


def ldam(
    *, largest_margin: NotNegative, scale: Positive, beta: BelowOne, deferred_epochs: Index
) -> Method:
    """A classifier by cosines; the network's own classifier gets its class vectors.

    Classes have equal weights for `deferred_epochs`, and then the `class_weights`.
    """

    def cosines(nets: Nets, batch: Batch) -> Array:
        student = nets["student"](batch.see(once))
        return everywhere(nets["cosines"](student.embed, student.logits))

    def loss(nets: Nets, batch: Batch) -> Losses:
        counts, cosine = batch.counts(), cosines(nets, batch)
        later = jnp.asarray(class_weights(counts, beta), jnp.float32)
        weight = jnp.where(batch.epoch < deferred_epochs, jnp.ones_like(later), later)
        margin = margins(counts, largest_margin)
        term = margin_loss(cosine, batch.label, margin, weight, scale)
        return Losses({"ldam": term}, {"accuracy": accuracy(cosine, batch.label)})

    def scores(nets: Nets, batch: Batch) -> Mapping[str, Any]:
        return by_frequency(scale * cosines(nets, batch), batch)

    nets = {"student": learns("student"), "cosines": learns(Cosines())}
    return {"student": Stage(("ldam",), nets, loss, scores, tied=with_cosines)}
