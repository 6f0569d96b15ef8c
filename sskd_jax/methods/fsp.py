"""A Gift from Knowledge Distillation (Yim, Joo, Bae, Kim, CVPR 2017).

In a first stage, the student learns the teacher's FSP matrices, the relations of successive maps.
A second stage starts from these weights and learns the task.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from sskd_jax.losses import map_pairs, same_size, same_widths
from sskd_jax.methods.common import unscored, warmed_up
from sskd_jax.rules import Positive
from sskd_jax.types import (
    Array,
    Batch,
    Losses,
    Method,
    Nets,
    Stage,
    frozen,
    learns,
)
from sskd_jax.views import once


def flow(before: Array, after: Array) -> Array:
    """The FSP matrix [n, C, C'] of two maps: mean products of their channels over the positions."""
    before, after = same_size(before, after)
    places = before.shape[1] * before.shape[2]
    return jnp.einsum("nhwc,nhwd->ncd", before, after, precision="highest") / places


def flow_loss(students: Sequence[Array], teachers: Sequence[Array]) -> Array:
    """Mean squared differences of both networks' matrices, summed over successive maps."""
    ours, theirs = (list(map(flow, maps[:-1], maps[1:])) for maps in (students, teachers))
    return sum(jnp.mean(jnp.square(a - b)) for a, b in zip(ours, theirs, strict=True))


def warmup() -> Stage:
    """The first stage, on all maps; the student's must be as wide as the teacher's."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        pixels = batch.see(once)
        student, teacher = nets["student"](pixels), nets["teacher"](pixels)
        students, teachers = zip(*map_pairs(student.maps, teacher.maps, start=0), strict=True)
        same_widths("fsp", students, teachers)
        return Losses({"fsp": flow_loss(students, teachers)})

    nets = {"student": learns("student"), "teacher": frozen("teacher")}
    return Stage(("fsp",), nets, loss, unscored)


def fsp(*, kd_temperature: Positive) -> Method:
    """The first stage, then cross-entropy from the weights that it leaves."""
    return warmed_up(warmup(), kd_temperature=kd_temperature)
