"""Knowledge Transfer via Distillation of Activation Boundaries (Heo, Lee, Yun, Choi, AAAI 2019), as in RepDistiller.

A first stage has the student's neurons respond where the teacher's do; then it learns its task from there.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from sskd_jax.layers.heads import Regressor, init_all
from sskd_jax.losses import map_pairs
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Batch, Method, Outputs, Params, Terms

MARGIN = 1.0


def boundary_loss(student: Array, teacher: Array) -> Array:
    """What pre-activations [N, H, W, C] lack to MARGIN on the teacher's side of zero, squared: the mean over images."""
    off = jnp.where((teacher <= 0) & (student > -MARGIN), jnp.square(student + MARGIN), 0)
    on = jnp.where((teacher > 0) & (student <= MARGIN), jnp.square(student - MARGIN), 0)
    return jnp.sum(off + on) / student.shape[0]


def transfer_loss(students: Sequence[Array], teachers: Sequence[Array]) -> Array:
    """The sum over the maps, each of which counts twice as much as the one before it."""
    losses = [boundary_loss(*pair) for pair in zip(students, teachers, strict=True)]
    return 0.003 * sum(2.0 ** (i + 1 - len(losses)) * loss for i, loss in enumerate(losses))


def connectors(student: Outputs, teacher: Outputs) -> dict[str, tuple[Regressor, Array]]:
    """For every pair of pre-activations of different shapes, by its place: a regressor, and what it is given."""
    pairs = enumerate(map_pairs(student.preacts, teacher.preacts))
    return {
        str(i): (Regressor(theirs.shape[-1], theirs.shape[1]), ours)
        for i, (ours, theirs) in pairs
        if ours.shape != theirs.shape
    }


def warmup() -> Method:
    """On the pre-activations behind the stem, of the global batch."""

    def loss(
        params: Params, pretrained: Params, student: Outputs, teacher: Outputs, batch: Batch
    ) -> tuple[Terms, Terms]:
        ours, theirs = (
            list(maps) for maps in zip(*map_pairs(student.preacts, teacher.preacts), strict=True)
        )
        for place, (module, features) in connectors(student, teacher).items():
            ours[int(place)] = module.apply({"params": params[place]}, features)
        return {
            "ab": transfer_loss(*([x.astype(jnp.float32) for x in maps] for maps in (ours, theirs)))
        }, {}

    return Method(
        terms=("ab",),
        init=lambda key, student, teacher: init_all(key, connectors(student, teacher)),
        loss=loss,
        gathered=slice(1, None),
    )


def ab(*, kd_temperature: float) -> Method:
    """Cross-entropy, from the weights that the first stage leaves."""
    return beside({}, kd_temperature=kd_temperature, pretrain={"warmup": warmup()})
