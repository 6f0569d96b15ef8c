"""Knowledge Transfer via Distillation of Activation Boundaries (Heo et al., AAAI 2019).

As in RepDistiller: in a first stage, the student's neurons learn to be active where the teacher's
are. A second stage starts from these weights and learns the task.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.layers.heads import Regressor
from sskd_jax.losses import map_pairs
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

MARGIN = 1.0
SCALE = 3 / 1000  # of the loss, in RepDistiller


def boundary_loss(student: Array, teacher: Array) -> Array:
    """Squared distance of pre-activations [n, H, W, C] to MARGIN on the teacher's side of zero.

    Those beyond the margin count 0. It is summed over a map, and the mean over the images.
    """
    off = jnp.where((teacher <= 0) & (student > -MARGIN), jnp.square(student + MARGIN), 0)
    on = jnp.where((teacher > 0) & (student <= MARGIN), jnp.square(student - MARGIN), 0)
    return jnp.sum(off + on) / student.shape[0]


def transfer_loss(students: Sequence[Array], teachers: Sequence[Array]) -> Array:
    """SCALE times the sum over the maps, each of which counts twice as much as the one before."""
    total = jnp.zeros(())
    for pair in zip(students, teachers, strict=True):
        total = total / 2 + boundary_loss(*pair)
    return SCALE * total


class Connectors(nn.Module):
    """Brings every pre-activation of the student to the shape of the teacher's at that depth.

    A pre-activation that already has that shape stays as it is.
    """

    @nn.compact
    def __call__(
        self, students: Sequence[Array], teachers: Sequence[Array], train: bool = False
    ) -> list[Array]:
        found = []
        for i, (ours, theirs) in enumerate(zip(students, teachers, strict=True)):
            alike = ours.shape == theirs.shape
            found.append(ours if alike else Regressor(name=str(i))(ours, theirs, train))
        return found


def warmup() -> Stage:
    """The first stage: the boundaries of all pre-activations after the stem."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        pixels = batch.see(once)
        student, teacher = nets["student"](pixels), nets["teacher"](pixels)
        students, teachers = zip(*map_pairs(student.preacts, teacher.preacts), strict=True)
        students = nets["connectors"](students, teachers)
        students, teachers = (
            [features.astype(jnp.float32) for features in maps] for maps in (students, teachers)
        )
        return Losses({"ab": transfer_loss(students, teachers)})

    nets = {
        "student": learns("student"),
        "teacher": frozen("teacher"),
        "connectors": learns(Connectors()),
    }
    return Stage(("ab",), nets, loss, unscored)


def ab(*, kd_temperature: Positive) -> Method:
    """The first stage, then cross-entropy from the weights that it leaves."""
    return warmed_up(warmup(), kd_temperature=kd_temperature)
