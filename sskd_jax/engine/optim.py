"""SGD as PyTorch means it, the schedule of its rate, and what a loss depends on."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Var


def milestone_schedule(
    learning_rate: float,
    milestones: Sequence[float],
    decay: float,
    steps_per_epoch: int,
    *,
    warmup_epochs: float = 0.0,
    epochs: float = math.inf,
    cooldown_epochs: float = 0.0,
) -> optax.Schedule:
    """`learning_rate`, times `decay` from the start of every epoch in `milestones` (counted from 0).

    It rises in equal steps to that over the first `warmup_epochs`, as large batches need it (Goyal et al. 2017), and
    falls in equal steps towards nothing over the last `cooldown_epochs` of `epochs`. Without milestones, the two make
    one cycle (Smith and Topin 2018).
    """
    falling = optax.piecewise_constant_schedule(
        learning_rate, {round(epoch * steps_per_epoch): decay for epoch in milestones}
    )
    rising, cooling = (
        max(1, round(part * steps_per_epoch)) for part in (warmup_epochs, cooldown_epochs)
    )
    return lambda step: (
        falling(step)
        * jnp.minimum((step + 1) / rising, 1)
        * jnp.minimum((epochs * steps_per_epoch - step) / cooling, 1)
    )


def sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float, learned: Any = True
) -> optax.GradientTransformation:
    """torch.optim.SGD: decay is added to the gradient of every parameter, batch norm and bias too, before momentum.

    `learned` has True or False in the place of every parameter, or of a tree of them: those that the loss does not
    depend on must have False. PyTorch's optimizers pass over them, and here too they do not decay.
    """
    update = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum))
    return optax.masked(update, learned)


def reached(function: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    """For every array in `args`, which may be shapes, whether function(*args) is computed from it."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    needed = {var for var in jaxpr.outvars if isinstance(var, Var)}
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(var for var in equation.invars if isinstance(var, Var))
    return jax.tree.unflatten(jax.tree.structure(args), [var in needed for var in jaxpr.invars])
