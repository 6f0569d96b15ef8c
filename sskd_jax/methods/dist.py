"""Knowledge Distillation from A Stronger Teacher (Huang, You, Wang, Qian, Xu, NeurIPS 2022)."""

import jax
import jax.numpy as jnp

from sskd_jax.losses import accuracy, compared_logits, cross_entropy
from sskd_jax.types import Array, Batch, Method, Outputs, Params, Terms


def pearson(a: Array, b: Array) -> Array:
    """Correlation of the rows of [N, K] with those of another, mean over the rows; a constant row gives 0."""
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    norms = jnp.sqrt(jnp.sum(jnp.square(a), 1) + 1e-16) * jnp.sqrt(
        jnp.sum(jnp.square(b), 1) + 1e-16
    )
    return jnp.mean(jnp.sum(a * b, 1) / (norms + 1e-8))


def relations(student: Array, teacher: Array, temperature: float) -> tuple[Array, Array]:
    """(inter, intra): the distances of predictions [N, K] over the classes of an image and over the images of a class.

    Both are 1 - the mean correlation, times T^2.
    """
    student, teacher = (jax.nn.softmax(logits / temperature) for logits in (student, teacher))
    return temperature**2 * (1 - pearson(student, teacher)), temperature**2 * (
        1 - pearson(student.T, teacher.T)
    )


def dist(*, temperature: float, standardize: bool) -> Method:
    """Cross-entropy `ce` with the two relations, of logits or of standardized logits."""

    def loss(
        params: Params, pretrained: Params, student: Outputs, teacher: Outputs, batch: Batch
    ) -> tuple[Terms, Terms]:
        inter, intra = relations(*compared_logits(student, teacher, standardize), temperature)
        return (
            {"ce": cross_entropy(student.logits, batch["label"]), "inter": inter, "intra": intra},
            {"accuracy": accuracy(student.logits, batch["label"])},
        )

    return Method(terms=("ce", "inter", "intra"), init=lambda key, student, teacher: {}, loss=loss)
