"""Knowledge Distillation Meets Self-Supervision (Xu, Liu, Li, Loy, ECCV 2020), as released.

Every image is seen as itself and in three rotations. Shapes: N images, rows [4N, ...]
image-major, D width, K classes.
"""

from functools import partial
from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.axis import everywhere
from sskd_jax.layers.initializers import bias_uniform, fan_in_uniform
from sskd_jax.losses import accuracy, cross_entropy, product, soft_divergence
from sskd_jax.methods.common import TEACHER, classification_scores
from sskd_jax.rules import Positive, Share, one_of
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Stage, Terms, View, frozen, learns
from sskd_jax.views import rotated, transformed

VIEWS = 4
TRANSFORMATIONS = {"rotation": rotated, "four": transformed}  # held-out images are only rotated


class ProjectionHead(nn.Module):
    """The self-supervision module c(.): two linear layers as wide as the embed, a ReLU between."""

    @nn.compact
    def __call__(self, embed: Array, train: bool = False) -> Array:
        width = embed.shape[-1]
        bias = bias_uniform(width)
        start = {"kernel_init": fan_in_uniform, "bias_init": bias}
        linear = partial(nn.Dense, width, precision="highest", **start)
        return linear(name="2")(nn.relu(linear(name="0")(embed)))


def split_views(rows: Array) -> tuple[Array, Array]:
    """Rows [4N, ...] -> (normal [N, ...], transformed [3N, ...])."""
    views = rows.reshape(-1, VIEWS, *rows.shape[1:])
    return views[:, 0], views[:, 1:].reshape(-1, *rows.shape[1:])


def similarity_matrix(projected: Array) -> Array:
    """Cosine similarities [3N, N] of transformed views with normal ones, of rows [4N, D]."""
    squares = jnp.sum(jnp.square(projected), -1, keepdims=True)
    norm = jnp.sqrt(jnp.maximum(squares, 1e-16))
    normal, transformed = split_views(projected / norm)
    return product(transformed, normal.T)


def positives(similarity: Array) -> Array:
    """The column [3N] of the image from which each row was made."""
    return jnp.arange(similarity.shape[0]) // (VIEWS - 1)


def error_level(scores: Array, target: Array) -> Array:
    """The rank int[R] of the target column [R] in every row of scores [R, C], 0 for the best.

    Among equal scores, the leftmost ranks first.
    """
    at_target = jnp.take_along_axis(scores, target[:, None], 1)
    is_left = jnp.arange(scores.shape[1])[None] < target[:, None]
    is_before = (scores > at_target) | ((scores == at_target) & is_left)
    return jnp.sum(is_before, 1)


def transferred(level: Array, ratio: float) -> Array:
    """Mask [R] of the rows to transfer, by their `error_level`.

    These are all correct rows (level 0) and, of the others, the share `ratio` that is least wrong.
    """
    rows = level.shape[0]
    if ratio == 1:
        return jnp.ones(rows, bool)  # nothing to sort
    wrong = jnp.sum(level > 0)
    # some[number]: how many of `number` wrong rows are transferred; Python's int rounds down.
    some = jnp.asarray([int(ratio * number) for number in range(rows + 1)])
    count = rows - wrong + some[wrong]
    place = jnp.zeros(rows, int).at[jnp.argsort(level, stable=True)].set(jnp.arange(rows))
    return place < count


def prediction_terms(
    logits: Array,
    teacher: Array,
    labels: Array,
    *,
    kd_temperature: float,
    tf_temperature: float,
    keep: Array | None = None,
) -> Terms:
    """The terms ce, kd and tf of `distillation_terms`, from both networks' logits [4N, K].

    `keep` [3N] marks the transformed views that count in tf; None: all of them.
    """
    normal, transformed = split_views(logits)
    t_normal, t_transformed = split_views(teacher)
    return {
        "ce": cross_entropy(normal, labels),
        "kd": soft_divergence(normal, t_normal, temperature=kd_temperature),
        "tf": soft_divergence(transformed, t_transformed, temperature=tf_temperature, keep=keep),
    }


def distillation_terms(
    student: tuple[Array, Array],
    teacher: tuple[Array, Array],
    labels: Array,
    *,
    kd_temperature: float,
    tf_temperature: float,
    ss_temperature: float,
    tf_ratio: float,
    ss_ratio: float,
) -> Terms:
    """The four terms of eq. 8, unweighted.

    Args:
      student: (logits [4N, K], projected [4N, D]) of the student.
      teacher: the same of the frozen teacher; its D may differ.
      labels: class numbers [N].

    Returns:
      ce: cross-entropy on the normal views.
      kd: divergence from the teacher's predictions on the normal views.
      tf: the same on the transformed views that the teacher gets least wrong.
      ss: divergence from the rows of the teacher's similarity matrix that it gets least wrong.
    """
    _, t_transformed = split_views(teacher[0])
    similarity, t_similarity = similarity_matrix(student[1]), similarity_matrix(teacher[1])
    tf_level = error_level(t_transformed, jnp.repeat(labels, VIEWS - 1))
    ss_level = error_level(t_similarity, positives(t_similarity))
    predictions = prediction_terms(
        student[0],
        teacher[0],
        labels,
        kd_temperature=kd_temperature,
        tf_temperature=tf_temperature,
        keep=transferred(tf_level, tf_ratio),
    )
    ss = soft_divergence(
        similarity,
        t_similarity,
        temperature=ss_temperature,
        keep=transferred(ss_level, ss_ratio),
    )
    return predictions | {"ss": ss}


def contrastive_scores(projected: Array, mask: Array) -> Terms:
    """Whether each transformed view [3N] is most similar to its own image, for rows [4N, D].

    It is compared with the images that `mask` [N] marks.
    """
    similarity = jnp.where(mask[None], similarity_matrix(projected), -jnp.inf)
    is_right = similarity.argmax(1) == positives(similarity)
    return {"contrastive": is_right.astype(jnp.float32)}


def head(temperature: float, view: View = rotated) -> Stage:
    """The stage in which a head on the frozen teacher learns the contrastive task (eq. 5).

    The negatives of every row are the other N - 1 images.
    """

    def loss(nets: Nets, batch: Batch) -> Losses:
        teacher = nets["teacher"](batch.see(view))
        similarity = similarity_matrix(everywhere(nets["head"](teacher.embed)))
        target = positives(similarity)
        figures = {"contrastive": accuracy(similarity, target)}
        return Losses({"ss": cross_entropy(similarity / temperature, target)}, figures)

    def scores(nets: Nets, batch: Batch) -> Terms:
        teacher = nets["teacher"](batch.see(rotated))
        return contrastive_scores(everywhere(nets["head"](teacher.embed)), batch.mask)

    nets = {"teacher": frozen("teacher"), "head": learns(ProjectionHead())}
    return Stage(("ss",), nets, loss, scores)


def sskd(
    *,
    transformation: Annotated[str, one_of(*TRANSFORMATIONS)],
    head_temperature: Positive,
    kd_temperature: Positive,
    tf_temperature: Positive,
    ss_temperature: Positive,
    tf_ratio: Share,
    ss_ratio: Share,
) -> Method:
    """The student and its own head imitate the teacher (eq. 8).

    `transformation` makes the views for training: `rotation`, as released, or `four`, any of the
    paper's four. `head_temperature` is for `head`, the next arguments for `distillation_terms`.
    """
    view = TRANSFORMATIONS[transformation]
    compare = partial(
        distillation_terms,
        kd_temperature=kd_temperature,
        tf_temperature=tf_temperature,
        ss_temperature=ss_temperature,
        tf_ratio=tf_ratio,
        ss_ratio=ss_ratio,
    )

    def loss(nets: Nets, batch: Batch) -> Losses:
        pixels = batch.see(view)
        student, teacher = nets["student"](pixels), nets["teacher"](pixels)
        ours = everywhere((student.logits, nets["head"](student.embed)))
        theirs = everywhere((teacher.logits, nets["teacher_head"](teacher.embed)))
        return Losses(compare(ours, theirs, batch.label), figures(*ours, batch.label))

    def scores(nets: Nets, batch: Batch) -> Terms:
        student = nets["student"](batch.see(rotated))
        logits, projected = everywhere((student.logits, nets["head"](student.embed)))
        classes = classification_scores(logits[::VIEWS], batch.label)
        return classes | contrastive_scores(projected, batch.mask)

    nets = {
        "student": learns("student"),
        "head": learns(ProjectionHead()),
        "teacher": frozen("teacher"),
        "teacher_head": frozen(ProjectionHead(), "head/head"),
    }
    student = Stage(("ce", "kd", "tf", "ss"), nets, loss, scores)
    return {"teacher": TEACHER, "head": head(head_temperature, view), "student": student}


def figures(logits: Array, projected: Array, labels: Array) -> Terms:
    """The student's accuracy for the class, and for the image from which a view was made."""
    similarity = similarity_matrix(projected)
    return {
        "accuracy": accuracy(logits[::VIEWS], labels),
        "contrastive": accuracy(similarity, positives(similarity)),
    }
