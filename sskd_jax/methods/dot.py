"""DOT: A Distillation-Oriented Trainer (Zhao, Cui, Song, Liang, ICCV 2023).

The paper finds that the gradients of KD's two terms conflict, and that their sum is a compromise
which converges less well. So each term has a separate momentum, larger for the teacher's term:

    v_ce <- (mu - offset) v_ce + grad(ce) + decay x
    v_kd <- (mu + offset) v_kd + grad(kd)
    x    <- x - rate (v_ce + v_kd)

This takes a second backward pass.
"""

from sskd_jax.methods.kd import kd
from sskd_jax.rules import BelowOne, Positive
from sskd_jax.types import Method


def dot(*, temperature: Positive, momentum_offset: BelowOne) -> Method:
    """`kd`, whose terms `ce` and `kd` have momenta that differ by twice `momentum_offset`."""
    method = kd(temperature=temperature, standardize=False)
    return {**method, "student": method["student"]._replace(momentum_offset=momentum_offset)}
