"""Equations that two or more methods share, in float32. Predictions come before targets."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sskd_jax.types import Array, Outputs, UserError


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over the rows of -log softmax(logits [N, K])[label]; labels are class numbers [N]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def row_divergence(student: Array, teacher: Array) -> Array:
    """KL(softmax(teacher) || softmax(student)) of every row of logits [N, K]: [N]."""
    log_student, log_teacher = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    return jnp.sum(jnp.exp(log_teacher) * (log_teacher - log_student), -1)


def soft_divergence(
    student: Array, teacher: Array, *, temperature: float, keep: Array | None = None
) -> Array:
    """Hinton's KD (2015): T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits [N, K].

    It is the mean over the rows that `keep` [N] marks, or 0 if it marks none. The factor T^2 keeps
    the gradient's size independent of T.
    """
    rows = row_divergence(student / temperature, teacher / temperature)
    keep = jnp.ones_like(rows) if keep is None else keep.astype(rows.dtype)
    return temperature**2 * jnp.sum(rows * keep) / jnp.maximum(keep.sum(), 1)


def standardized(logits: Array) -> Array:
    """Every row [N, K] minus its mean, divided by its standard deviation; 0 for a constant row.

    Logit Standardization in Knowledge Distillation (Sun, Ren, Li, Wang, Cao, CVPR 2024).
    """
    variance = logits.var(1, ddof=1, keepdims=True)
    deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1))  # the root of 0 has no gradient
    return (logits - logits.mean(1, keepdims=True)) / (deviation + 1e-7)


def shifted(logits: Array, label: Array) -> Array:
    """Logits [N, K] with the largest logit and that of the label [N] exchanged.

    So the label's logit becomes the largest; where it already is, nothing changes. This is the
    probability shift of knowledge adjustment (Wen, Lai, Qian 2019), at any temperature.
    """
    classes = logits.shape[1]
    is_largest, is_label = (
        jax.nn.one_hot(place, classes, dtype=bool) for place in (logits.argmax(1), label)
    )
    largest = logits.max(1, keepdims=True)
    own = jnp.sum(jnp.where(is_label, logits, 0), 1, keepdims=True)
    return jnp.where(is_largest, own, jnp.where(is_label, largest, logits))


def compared_logits(
    student: Outputs, teacher: Outputs, standardize: bool, shift_to: Array | None = None
) -> tuple[Array, Array]:
    """The logits [N, K] of both networks; if `standardize`, they are `standardized`.

    If labels `shift_to` [N] are given, the teacher's logits are `shifted` to them first.
    """
    ours, theirs = student.logits, teacher.logits
    if shift_to is not None:
        theirs = shifted(theirs, shift_to)
    return (standardized(ours), standardized(theirs)) if standardize else (ours, theirs)


def accuracy(logits: Array, labels: Array) -> Array:
    """The share of the rows [N, K] whose largest logit is that of the label [N]."""
    return jnp.mean(logits.argmax(-1) == labels)


def normalized(rows: Array) -> Array:
    """Unit vectors along the last axis.

    A row of zeros remains zero, and its gradient is finite.
    """
    squares = jnp.sum(jnp.square(rows), -1, keepdims=True)
    return rows * jax.lax.rsqrt(jnp.where(squares > 1e-24, squares, 1))


def product(a: Array, b: Array) -> Array:
    """a [N, D] times b [D, M] in full float32, whatever the device's default."""
    return jnp.matmul(a, b, precision="highest")


def pooled(features: Array, height: int, width: int) -> Array:
    """Adaptive average pooling of a map [N, H, W, C] to [N, height, width, C], as PyTorch's."""
    rows = averages(features.shape[1], height)
    columns = averages(features.shape[2], width)
    return jnp.einsum("ih,nhwc,jw->nijc", rows, features, columns, precision="highest")


def averages(size: int, count: int) -> np.ndarray:
    """f32[count, size]: the weights of all `size` positions in the mean of each of `count` parts.

    Part i begins at i * size / count, rounded down, and ends at (i + 1) * size / count, rounded
    up; so neighbouring parts overlap where `count` does not divide `size`.
    """
    parts = np.zeros((count, size), np.float32)
    for i in range(count):
        low, high = i * size // count, -(-(i + 1) * size // count)
        parts[i, low:high] = 1 / (high - low)
    return parts


def same_size(student: Array, teacher: Array) -> tuple[Array, Array]:
    """Two maps [N, H, W, C] in float32, the larger one pooled to the other's size."""
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    if student.shape[1] > teacher.shape[1]:
        return pooled(student, *teacher.shape[1:3]), teacher
    if student.shape[1] < teacher.shape[1]:
        return student, pooled(teacher, *student.shape[1:3])
    return student, teacher


def attention(features: Array) -> Array:
    """The mean square over the channels of a map [N, H, W, C], as unit vectors [N, H * W]."""
    energy = jnp.mean(jnp.square(features), -1)
    return normalized(energy.reshape(features.shape[0], -1))


def last_map(maps: Sequence[Array]) -> Array:
    """A network's map [n, H, W, C] before the pooling, in float32.

    Raises:
      UserError: the network returns no maps.
    """
    if not maps:
        raise UserError(
            "this method compares feature maps, and a network returns none: return them as maps "
            "of sskd_jax.types.Outputs, stem first"
        )
    return maps[-1].astype(jnp.float32)


def map_pairs(
    student: Sequence[Array], teacher: Sequence[Array], start: int = 1
) -> list[tuple[Array, Array]]:
    """Pairs of the two networks' maps, or pre-activations, of equal depth.

    They begin at the depth `start`; 1 leaves out the stem.

    Raises:
      UserError: one network has more maps than the other, or both have none after the stem.
    """
    if len(student) != len(teacher):
        raise UserError(
            "this method pairs the maps of both networks, but the student has "
            f"{len(student)} and the teacher {len(teacher)}: choose networks of one family"
        )
    if len(student) < 2:
        raise UserError(
            "this method compares maps after the stem, and the networks return none: return them "
            "as maps and preacts of sskd_jax.types.Outputs, after that of the stem"
        )
    return list(zip(student[start:], teacher[start:], strict=True))


def same_widths(method: str, students: Sequence[Array], teachers: Sequence[Array]) -> None:
    """Checks that the student's maps [n, H, W, C] have as many channels as the teacher's.

    Raises:
      UserError: one of them has not.
    """
    ours, theirs = ([features.shape[-1] for features in maps] for maps in (students, teachers))
    if ours != theirs:
        raise UserError(
            f"{method} compares maps of one width, but the student's have {ours} channels and the "
            f"teacher's {theirs}: choose networks of one width"
        )
