"""Logit adjustment (Menon et al., ICLR 2021); at strength 1 it is balanced softmax.

Balanced softmax is that of Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition,
NeurIPS 2020. At strength 0 it is plain cross-entropy, scored by the frequency of the classes.
"""

import jax.numpy as jnp
import numpy as np

from sskd_jax.axis import share
from sskd_jax.losses import accuracy, cross_entropy
from sskd_jax.methods.long_tail import frequency_scores
from sskd_jax.rules import NotNegative
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Stage, learns
from sskd_jax.views import once


def adjusted(logits: Array, counts: np.ndarray, strength: float) -> Array:
    """Logits [N, K] plus `strength` times the log of each class's share of the training images.

    `counts` [K] are the numbers of images. A network trained so gives logits for balanced images.
    """
    # A class without images is treated as if it had one; the log of 0 is not finite.
    prior = np.log(np.maximum(counts, 1) / counts.sum())
    return logits + strength * jnp.asarray(prior, jnp.float32)[None]


def logit_adjustment(*, strength: NotNegative) -> Method:
    """Cross-entropy of logits that are adjusted in training, and not in evaluation."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        logits, label = nets["student"](batch.see(once)).logits, share(batch.label)
        ce = cross_entropy(adjusted(logits, batch.counts(), strength), label)
        return Losses({"ce": ce}, {"accuracy": accuracy(logits, label)})

    nets = {"student": learns("student")}
    return {"student": Stage(("ce",), nets, loss, frequency_scores("student"))}
