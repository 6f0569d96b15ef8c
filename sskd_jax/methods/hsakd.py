"""Hierarchical Self-supervised Augmented Knowledge Distillation (Yang et al., IJCAI 2021).

Every network has branches, which take its maps and classify joint labels: a class and one of four
rotations. The teacher's branches learn these labels, and the student's imitate the teacher's.
Shapes: N images, rows [4N, ...] image-major, K classes.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from sskd_jax.axis import everywhere, share
from sskd_jax.losses import accuracy, cross_entropy, soft_divergence
from sskd_jax.methods.common import TEACHER, Scores, classification_scores
from sskd_jax.rules import Positive
from sskd_jax.types import (
    Array,
    Batch,
    Losses,
    Method,
    Nets,
    Stage,
    Terms,
    UserError,
    frozen,
    learns,
)
from sskd_jax.views import turned

ROTATIONS = 4


class Predictions(NamedTuple):
    """The logits [4N, K] of a network, and the joint logits [4N, 4K] of each of its branches."""

    logits: Array
    joint: tuple[Array, ...]


def predict(nets: Nets, net: str, pixels: Array) -> Predictions:
    """The predictions of a network and of the net of its branches."""
    outputs = nets[net](pixels)
    return Predictions(outputs.logits, nets[f"{net}_branches"](outputs.maps))


def joint_label(label: Array) -> Array:
    """The number 4 * label + rotation of every row [4N], for images with label [N]."""
    return (ROTATIONS * label[:, None] + jnp.arange(ROTATIONS)[None]).reshape(-1)


def joint_cross_entropy(predicted: Predictions, label: Array) -> Array:
    """Cross-entropy of all rows with their joint labels, summed over the branches."""
    return sum(cross_entropy(logits, joint_label(label)) for logits in predicted.joint)


def labelled_terms(predicted: Predictions, label: Array) -> Terms:
    """Cross-entropy of the rows that are not turned (ce), and that of the branches (joint_ce)."""
    return {
        "ce": cross_entropy(predicted.logits[::ROTATIONS], label),
        "joint_ce": joint_cross_entropy(predicted, label),
    }


def imitation_terms(student: Predictions, teacher: Predictions, temperature: float) -> Terms:
    """Divergence from the teacher on all rows: of the networks (kd), of the branches (joint_kd).

    joint_kd is the sum over the branches; each imitates the teacher's branch at its depth.

    Raises:
      UserError: one network has more branches than the other.
    """
    ours, theirs = len(student.joint), len(teacher.joint)
    if ours != theirs:
        raise UserError(
            f"every branch of the student imitates one of the teacher, but the student has {ours} "
            f"and the teacher {theirs}: choose networks with as many stages"
        )
    divergence = partial(soft_divergence, temperature=temperature)
    return {
        "kd": divergence(student.logits, teacher.logits),
        "joint_kd": sum(map(divergence, student.joint, teacher.joint)),
    }


def joint_scores(predicted: Predictions, label: Array) -> Terms:
    """The share of the branches that are right, for every row: [4N].

    joint_top1 is about the 4K joint classes, and class_top1 about the K classes, for each of which
    the branch's four logits are summed.
    """
    joint, classes = joint_label(label), jnp.repeat(label, ROTATIONS)
    joint_hits = [logits.argmax(-1) == joint for logits in predicted.joint]
    sums = [logits.reshape(*logits.shape[:-1], -1, ROTATIONS).sum(-1) for logits in predicted.joint]
    class_hits = [logits.argmax(-1) == classes for logits in sums]
    return {
        "joint_top1": jnp.mean(jnp.stack(joint_hits), 0),
        "class_top1": jnp.mean(jnp.stack(class_hits), 0),
    }


def scores_of(net: str) -> Scores:
    """The accuracy of a network on images that are not turned, and of its branches on all rows."""

    def scores(nets: Nets, batch: Batch) -> Terms:
        predicted, label = predict(nets, net, batch.see(turned)), share(batch.label)
        own = classification_scores(predicted.logits[::ROTATIONS], label)
        return everywhere(own | joint_scores(predicted, label))

    return scores


def branches() -> Stage:
    """The stage that trains branches of the frozen teacher, on its maps in evaluation mode."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        predicted, label = predict(nets, "teacher", batch.see(turned)), share(batch.label)
        figures = {"joint_top1": jnp.mean(joint_scores(predicted, label)["joint_top1"])}
        return Losses({"joint_ce": joint_cross_entropy(predicted, label)}, figures)

    def scores(nets: Nets, batch: Batch) -> Terms:
        predicted, label = predict(nets, "teacher", batch.see(turned)), share(batch.label)
        return everywhere(joint_scores(predicted, label))

    nets = {"teacher": frozen("teacher"), "teacher_branches": learns("teacher.branches")}
    return Stage(("joint_ce",), nets, loss, scores)


def joint_teacher() -> Stage:
    """The stage of a teacher that learns together with its branches, from the start."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        predicted, label = predict(nets, "teacher", batch.see(turned)), share(batch.label)
        figures = {"accuracy": accuracy(predicted.logits[::ROTATIONS], label)}
        return Losses(labelled_terms(predicted, label), figures)

    nets = {"teacher": learns("teacher"), "teacher_branches": learns("teacher.branches")}
    return Stage(("ce", "joint_ce"), nets, loss, scores_of("teacher"))


def student(temperature: float, origin: str) -> Stage:
    """The stage of a student and its branches, which learn no joint label themselves.

    Args:
      temperature: of both divergences.
      origin: the stage in which the teacher's branches are trained.
    """

    def loss(nets: Nets, batch: Batch) -> Losses:
        pixels, label = batch.see(turned), share(batch.label)
        ours, theirs = (predict(nets, net, pixels) for net in ("student", "teacher"))
        logits = ours.logits[::ROTATIONS]
        terms = {"ce": cross_entropy(logits, label)} | imitation_terms(ours, theirs, temperature)
        return Losses(terms, {"accuracy": accuracy(logits, label)})

    nets = {
        "student": learns("student"),
        "student_branches": learns("student.branches"),
        "teacher": frozen("teacher"),
        "teacher_branches": frozen("teacher.branches", f"{origin}/teacher_branches"),
    }
    return Stage(("ce", "kd", "joint_kd"), nets, loss, scores_of("student"))


def hsakd(*, temperature: Positive) -> Method:
    """The student of a teacher that was trained alone and got its branches afterwards."""
    return {"teacher": TEACHER, "branches": branches(), "student": student(temperature, "branches")}


def hsakd_joint(*, temperature: Positive) -> Method:
    """The student of a teacher that was trained together with its branches."""
    return {"teacher": joint_teacher(), "student": student(temperature, "teacher")}
