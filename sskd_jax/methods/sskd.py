"""Knowledge Distillation Meets Self-Supervision (Xu, Liu, Li, Loy, ECCV 2020), as in its released code.

Every image is seen as itself and in three rotations. Shapes: N images, rows [4N, ...] image-major, D width, K classes.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sskd_jax.layers.initializers import bias_uniform, fan_in_uniform
from sskd_jax.losses import accuracy, cross_entropy, soft_divergence
from sskd_jax.types import Array, Batch, Method, Outputs, Params, Terms

VIEWS = 4


class ProjectionHead(nn.Module):
    """The self-supervision module c(.): two linear layers as wide as the pooled feature, a ReLU between."""

    @nn.compact
    def __call__(self, embed: Array) -> Array:
        width = embed.shape[-1]
        linear = partial(nn.Dense, width, kernel_init=fan_in_uniform, bias_init=bias_uniform(width))
        return linear(name="2")(nn.relu(linear(name="0")(embed)))


def split_views(rows: Array) -> tuple[Array, Array]:
    """Rows [4N, ...] -> (normal [N, ...], transformed [3N, ...])."""
    views = rows.reshape(-1, VIEWS, *rows.shape[1:])
    return views[:, 0], views[:, 1:].reshape(-1, *rows.shape[1:])


def similarity_matrix(projected: Array) -> Array:
    """Cosine similarities [3N, N] of every transformed view with every normal one, of rows [4N, D]."""
    norm = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(projected), -1, keepdims=True), 1e-16))
    normal, transformed = split_views(projected / norm)
    return jnp.matmul(transformed, normal.T, precision="highest")


def positives(similarity: Array) -> Array:
    """The column [3N] that holds the image each row was made from."""
    return jnp.arange(similarity.shape[0]) // (VIEWS - 1)


def error_level(scores: Array, target: Array) -> Array:
    """How many columns of scores [R, C] come before the target column [R], best first, ties from the left: int[R]."""
    at_target = jnp.take_along_axis(scores, target[:, None], 1)
    earlier = jnp.arange(scores.shape[1])[None] < target[:, None]
    return jnp.sum((scores > at_target) | ((scores == at_target) & earlier), 1)


def transferred(level: Array, ratio: float) -> Array:
    """Mask [R] of the rows to transfer: all correct ones (level 0) and the least wrong `ratio` of the others."""
    rows = level.shape[0]
    wrong = jnp.sum(level > 0)
    count = rows - wrong + jnp.asarray([int(ratio * n) for n in range(rows + 1)])[wrong]
    position = jnp.zeros(rows, int).at[jnp.argsort(level, stable=True)].set(jnp.arange(rows))
    return position < count


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
      teacher: the same of the teacher, under stop_gradient; its D may differ.
      labels: class numbers [N].

    Returns:
      ce: cross-entropy on the normal views.
      kd: divergence from the teacher's predictions on the normal views.
      tf: the same on the transformed views that the teacher gets least wrong.
      ss: divergence from the rows of the teacher's similarity matrix that it gets least wrong.
    """
    (normal, transformed), (t_normal, t_transformed) = (
        split_views(student[0]),
        split_views(teacher[0]),
    )
    similarity, t_similarity = similarity_matrix(student[1]), similarity_matrix(teacher[1])
    tf_keep = transferred(error_level(t_transformed, jnp.repeat(labels, VIEWS - 1)), tf_ratio)
    ss_keep = transferred(error_level(t_similarity, positives(t_similarity)), ss_ratio)
    return {
        "ce": cross_entropy(normal, labels),
        "kd": soft_divergence(normal, t_normal, temperature=kd_temperature),
        "tf": soft_divergence(transformed, t_transformed, temperature=tf_temperature, keep=tf_keep),
        "ss": soft_divergence(similarity, t_similarity, temperature=ss_temperature, keep=ss_keep),
    }


def contrastive_scores(projected: Array, mask: Array) -> Terms:
    """Whether each transformed view [3N] is most similar to its own image, among the N that `mask` [N] admits."""
    similarity = jnp.where(mask[None], similarity_matrix(projected), -jnp.inf)
    return {"contrastive": (similarity.argmax(1) == positives(similarity)).astype(jnp.float32)}


def init_head(key: Array, outputs: Outputs) -> Params:
    return ProjectionHead().init(key, np.zeros(outputs.embed.shape, np.float32))["params"]


def project(params: Params, outputs: Outputs) -> Array:
    return ProjectionHead().apply({"params": params}, outputs.embed)


def head(*, temperature: float) -> Method:
    """Stage 2: the contrastive task for the head of the frozen teacher (eq. 5), in every row the other N - 1 images."""

    def loss(
        params: Params, pretrained: Params, student: None, teacher: Outputs, batch: Batch
    ) -> tuple[Terms, Terms]:
        similarity = similarity_matrix(project(params, teacher))
        target = positives(similarity)
        return {"ss": cross_entropy(similarity / temperature, target)}, {
            "contrastive": accuracy(similarity, target)
        }

    return Method(
        terms=("ss",),
        init=lambda key, student, teacher: init_head(key, teacher),
        loss=loss,
        views=VIEWS,
        student=False,
        evaluate=lambda params, student, teacher, batch: contrastive_scores(
            project(params, teacher), batch["mask"]
        ),
    )


def sskd(
    *,
    head_temperature: float,
    kd_temperature: float,
    tf_temperature: float,
    ss_temperature: float,
    tf_ratio: float,
    ss_ratio: float,
) -> Method:
    """Stage 3: the student and its own head imitate the teacher; all but the first are for `distillation_terms`."""
    knobs = dict(
        kd_temperature=kd_temperature,
        tf_temperature=tf_temperature,
        ss_temperature=ss_temperature,
        tf_ratio=tf_ratio,
        ss_ratio=ss_ratio,
    )

    def loss(
        params: Params, pretrained: Params, student: Outputs, teacher: Outputs, batch: Batch
    ) -> tuple[Terms, Terms]:
        projected = project(params, student)
        teacher_projected = jax.lax.stop_gradient(project(pretrained["head"], teacher))
        terms = distillation_terms(
            (student.logits, projected),
            (teacher.logits, teacher_projected),
            batch["label"],
            **knobs,
        )
        similarity = similarity_matrix(projected)
        return terms, {
            "accuracy": accuracy(student.logits[::VIEWS], batch["label"]),
            "contrastive": accuracy(similarity, positives(similarity)),
        }

    return Method(
        terms=("ce", "kd", "tf", "ss"),
        init=lambda key, student, teacher: init_head(key, student),
        loss=loss,
        views=VIEWS,
        pretrain={"head": head(temperature=head_temperature)},
        evaluate=lambda params, student, teacher, batch: contrastive_scores(
            project(params, student), batch["mask"]
        ),
    )
