"""Distilling the Knowledge in a Neural Network (Hinton, Vinyals, Dean 2015)."""

from sskd_jax.losses import compared_logits, soft_divergence
from sskd_jax.methods.common import taught
from sskd_jax.rules import Flag, Positive
from sskd_jax.types import Batch, Losses, Method, Nets, Outputs


def kd(*, temperature: Positive, standardize: Flag) -> Method:
    """The divergence `kd` from the teacher's softened predictions.

    `standardize` compares standardized logits instead of the logits themselves.
    """

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        logits = compared_logits(student, teacher, standardize)
        return Losses({"kd": soft_divergence(*logits, temperature=temperature)})

    return taught(("kd",), own)
