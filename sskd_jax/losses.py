"""Equations that two or more methods share: predictions first, targets second. Means over rows, in float32."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sskd_jax.types import Array, Outputs, UserError


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over the rows of -log softmax(logits [N, K])[label]; labels are class numbers [N]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def soft_divergence(
    student: Array, teacher: Array, *, temperature: float, keep: Array | None = None
) -> Array:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over the rows [N, K] that `keep` [N] marks.

    Hinton et al. 2015; the factor T^2 keeps the gradient's size independent of T. Nothing kept gives 0.
    """
    log_student = jax.nn.log_softmax(student / temperature)
    log_teacher = jax.nn.log_softmax(teacher / temperature)
    rows = jnp.sum(jnp.exp(log_teacher) * (log_teacher - log_student), -1)
    keep = jnp.ones_like(rows) if keep is None else keep.astype(rows.dtype)
    return temperature**2 * jnp.sum(rows * keep) / jnp.maximum(keep.sum(), 1)


def standardized(logits: Array) -> Array:
    """Every row [N, K] minus its mean, over its standard deviation; a constant row gives zeros.

    Logit Standardization in Knowledge Distillation (Sun, Ren, Li, Wang, Cao, CVPR 2024).
    """
    variance = logits.var(1, ddof=1, keepdims=True)
    return (logits - logits.mean(1, keepdims=True)) / (
        jnp.sqrt(jnp.where(variance > 0, variance, 1)) + 1e-7
    )


def compared_logits(student: Outputs, teacher: Outputs, standardize: bool) -> tuple[Array, Array]:
    """The logits [N, K] of both networks, or the `standardized` ones."""
    logits = student.logits, teacher.logits
    return (standardized(logits[0]), standardized(logits[1])) if standardize else logits


def accuracy(logits: Array, labels: Array) -> Array:
    """Share of the rows [N, K] whose largest logit is that of the label [N]."""
    return jnp.mean(logits.argmax(-1) == labels)


def normalized(rows: Array) -> Array:
    """Unit vectors along the last axis; a row of zeros stays one, and has a gradient like any other."""
    squares = jnp.sum(jnp.square(rows), -1, keepdims=True)
    return rows * jax.lax.rsqrt(jnp.where(squares > 1e-24, squares, 1))


def product(a: Array, b: Array) -> Array:
    """a [N, D] times b [D, M] in full float32, whatever the device's default."""
    return jnp.matmul(a, b, precision="highest")


def pooled(features: Array, height: int, width: int) -> Array:
    """Means over the parts into which `height` x `width` divide a map [N, H, W, C], as adaptive average pooling."""

    def parts(size: int, count: int) -> np.ndarray:
        edges = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        return np.float32(
            [[(low <= place < high) / (high - low) for place in range(size)] for low, high in edges]
        )

    rows, columns = parts(features.shape[1], height), parts(features.shape[2], width)
    return jnp.einsum("ih,nhwc,jw->nijc", rows, features, columns, precision="highest")


def same_size(student: Array, teacher: Array) -> tuple[Array, Array]:
    """Two maps [N, H, W, C] in float32, the larger one pooled to the other's size."""
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    if student.shape[1] > teacher.shape[1]:
        return pooled(student, *teacher.shape[1:3]), teacher
    return student, teacher if student.shape[1] == teacher.shape[1] else pooled(
        teacher, *student.shape[1:3]
    )


def attention(features: Array) -> Array:
    """The squares' mean over the channels of a map [N, H, W, C], as unit vectors [N, H * W]."""
    return normalized(jnp.mean(jnp.square(features), -1).reshape(features.shape[0], -1))


def map_pairs(
    student: Sequence[Array], teacher: Sequence[Array], start: int = 1
) -> list[tuple[Array, Array]]:
    """The maps (or pre-activations) of both networks by depth: from number `start` on, which leaves out the stem.

    Raises:
      UserError: one has more than the other.
    """
    if len(student) != len(teacher):
        raise UserError(
            f"this method pairs the maps of both networks, but the student has {len(student)} and the "
            f"teacher {len(teacher)}: choose networks of one family"
        )
    return list(zip(student[start:], teacher[start:], strict=True))
