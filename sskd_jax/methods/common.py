"""What methods share: the teacher's stage, a student with a teacher, and top-1 accuracy."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jax import lax

from sskd_jax.axis import everywhere, share
from sskd_jax.losses import accuracy, cross_entropy, soft_divergence
from sskd_jax.types import (
    Array,
    Batch,
    Losses,
    Method,
    Net,
    Nets,
    Outputs,
    Stage,
    Terms,
    expect,
    frozen,
    learns,
)
from sskd_jax.views import once

Scores = Callable[[Nets, Batch], Mapping[str, Any]]
Own = Callable[[Nets, Batch, Outputs, Outputs], Losses]


def classification_scores(logits: Array, label: Array) -> Terms:
    """Scores per row of logits [N, K] with label [N].

    Whether the label has the largest logit (top1) or one of the five largest (top5), and the loss.
    """
    hits = lax.top_k(logits, min(5, logits.shape[1]))[1] == label[:, None]
    return {
        "top1": hits[:, 0].astype(jnp.float32),
        "top5": hits.any(1).astype(jnp.float32),
        "loss": optax.softmax_cross_entropy_with_integer_labels(logits, label),
    }


def top(net: str) -> Scores:
    """The classification scores of a net."""

    def scores(nets: Nets, batch: Batch) -> Terms:
        logits = everywhere(nets[net](batch.see(once)).logits)
        return classification_scores(logits, batch.label)

    return scores


def unscored(nets: Nets, batch: Batch) -> Terms:
    """No scores: for a stage whose result can't be measured on held-out images."""
    return {}


def labelled(logits: Array, batch: Batch) -> Losses:
    """Cross-entropy and accuracy of a share of logits [n, K]."""
    label = share(batch.label)
    return Losses({"ce": cross_entropy(logits, label)}, {"accuracy": accuracy(logits, label)})


def supervised(net: str) -> Stage:
    """Cross-entropy with the labels, on one view of every image."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        return labelled(nets[net](batch.see(once)).logits, batch)

    return Stage(("ce",), {net: learns(net)}, loss, top(net))


TEACHER = supervised("teacher")._replace(shared=True)


def taught(
    terms: tuple[str, ...],
    own: Own,
    *,
    nets: Mapping[str, Net] = {},
    before: Mapping[str, Stage] = {},
    start: str = "",
    memory: Callable[..., Any] | None = None,
) -> Method:
    """A teacher, then a student that learns from it and the labels, with one view of every image.

    Args:
      terms: names of the method's terms, without the cross-entropy `ce`.
      own: (nets, batch, student, teacher) -> the `Losses` with these terms, from this device's
        share of both networks' outputs.
      nets: the nets of the student's stage besides "student" and "teacher".
      before: stages between the teacher's and the student's.
      start: "stage/net" from which the student starts; "" for random weights.
      memory: as in `Stage`.
    """

    def loss(nets: Nets, batch: Batch) -> Losses:
        pixels = batch.see(once)
        student, teacher = nets["student"](pixels), nets["teacher"](pixels)
        known = labelled(student.logits, batch)
        losses = expect(own(nets, batch, student, teacher), Losses, "the method's own loss")
        return Losses(known.terms | losses.terms, known.figures | losses.figures, losses.memory)

    both = {"student": learns("student", start), "teacher": frozen("teacher")}
    student = Stage(("ce", *terms), both | dict(nets), loss, top("student"), memory)
    return {"teacher": TEACHER, **before, "student": student}


def with_kd(terms: tuple[str, ...], own: Own, *, kd_temperature: float, **more: Any) -> Method:
    """`taught` with Hinton's KD as a further term, as in RepDistiller: ce + weight * own + kd.

    "+kd" after a method's name gives the term `kd` a weight that is not 0.
    """

    def both(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        kd = soft_divergence(student.logits, teacher.logits, temperature=kd_temperature)
        losses = expect(own(nets, batch, student, teacher), Losses, "the method's own loss")
        return losses._replace(terms={"kd": kd} | losses.terms)

    return taught(("kd", *terms), both, **more)


def warmed_up(warmup: Stage, *, kd_temperature: float) -> Method:
    """Cross-entropy, and KD, for a student that starts from the weights of the stage `warmup`."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        return Losses({})

    before = {"warmup": warmup}
    return with_kd((), own, kd_temperature=kd_temperature, before=before, start="warmup/student")
