"""DOT: A Distillation-Oriented Trainer (Zhao, Cui, Song, Liang, ICCV 2023).

KD's two terms pull the student into different directions, and along their sum neither converges
well. So each has a momentum of its own, the larger one where the teacher speaks:

    v_ce <- (mu - offset) v_ce + grad(ce) + decay x
    v_kd <- (mu + offset) v_kd + grad(kd)
    x    <- x - rate (v_ce + v_kd)

That takes a second backward pass.
"""

from sskd_jax.methods.kd import kd
from sskd_jax.rules import BelowOne, Flag, Positive
from sskd_jax.types import Method


def dot(*, temperature: Positive, standardize: Flag, momentum_offset: BelowOne) -> Method:
    """`kd`, whose terms `ce` and `kd` have momenta that differ by twice `momentum_offset`."""
    method = kd(temperature=temperature, standardize=standardize)
    return {**method, "student": method["student"]._replace(momentum_offset=momentum_offset)}
