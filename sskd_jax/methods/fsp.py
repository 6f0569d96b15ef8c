"""A Gift from Knowledge Distillation (Yim, Joo, Bae, Kim, CVPR 2017).

A first stage has the student solve its way from map to map as the teacher does; then it learns its task from there.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from sskd_jax.losses import map_pairs, same_size
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Batch, Method, Outputs, Params, Terms, UserError


def flow(before: Array, after: Array) -> Array:
    """Products of all channels of two maps, the mean over their places: [N, C, C'] (the FSP matrix)."""
    before, after = same_size(before, after)
    return jnp.einsum("nhwc,nhwd->ncd", before, after, precision="highest") / (
        before.shape[1] * before.shape[2]
    )


def flow_loss(students: Sequence[Array], teachers: Sequence[Array]) -> Array:
    """Mean squared differences of the matrices, the sum over all neighbouring maps."""
    flows = (
        [flow(*pair) for pair in zip(maps[:-1], maps[1:], strict=True)]
        for maps in (students, teachers)
    )
    return sum(jnp.mean(jnp.square(ours - theirs)) for ours, theirs in zip(*flows, strict=True))


def warmup() -> Method:
    """On all maps, which must be as wide as the teacher's."""

    def loss(
        params: Params, pretrained: Params, student: Outputs, teacher: Outputs, batch: Batch
    ) -> tuple[Terms, Terms]:
        students, teachers = zip(*map_pairs(student.maps, teacher.maps, start=0), strict=True)
        widths = [[features.shape[-1] for features in maps] for maps in (students, teachers)]
        if widths[0] != widths[1]:
            raise UserError(
                f"fsp compares maps of one width, but the student's have {widths[0]} channels and the "
                f"teacher's {widths[1]}: choose networks of one width"
            )
        return {"fsp": flow_loss(students, teachers)}, {}

    return Method(terms=("fsp",), init=lambda key, student, teacher: {}, loss=loss)


def fsp(*, kd_temperature: float) -> Method:
    """Cross-entropy, from the weights that the first stage leaves."""
    return beside({}, kd_temperature=kd_temperature, pretrain={"warmup": warmup()})
