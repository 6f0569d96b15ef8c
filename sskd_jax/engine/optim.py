"""SGD as in PyTorch, and the schedule of the learning rate."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def milestone_schedule(
    learning_rate: float,
    milestones: Sequence[float],
    decay: float,
    steps_per_epoch: int,
    *,
    warmup_epochs: float = 0.0,
    epochs: float = math.inf,
    cooldown_epochs: float = 0.0,
    cosine: bool = False,
) -> optax.Schedule:
    """`learning_rate`, multiplied by `decay` at the start of every epoch in `milestones` (from 0).

    The rate rises to that value in equal steps over the first `warmup_epochs`, as large batches
    need it (Goyal et al. 2017), and falls in equal steps towards 0 over the last `cooldown_epochs`
    of `epochs`. Without milestones, the two make one cycle (Smith and Topin 2018). With `cosine`
    it changes once per epoch, along half a cosine that would reach 0 after the last epoch.
    """
    boundaries: dict[int, float] = {}
    for epoch in milestones:  # when an epoch has few steps, several may fall on the same step
        step = round(epoch * steps_per_epoch)
        boundaries[step] = decay * boundaries.get(step, 1.0)
    falling = optax.piecewise_constant_schedule(learning_rate, boundaries)
    rising = max(1, round(warmup_epochs * steps_per_epoch))
    cooling = max(1, round(cooldown_epochs * steps_per_epoch))

    def half_cosine(step: int) -> float:
        return (1 + jnp.cos(jnp.pi * (step // steps_per_epoch) / epochs)) / 2

    def rate(step: int) -> float:
        warm = jnp.minimum((step + 1) / rising, 1)
        cool = jnp.minimum((epochs * steps_per_epoch - step) / cooling, 1)
        return falling(step) * warm * cool * (half_cosine(step) if cosine else 1)

    return rate


def sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float, nesterov: bool = False
) -> optax.GradientTransformationExtraArgs:
    """torch.optim.SGD: weight decay is added to every parameter's gradient, before the momentum.

    Parameters of batch norms and biases are no exception. With `nesterov`, a step follows the
    gradient plus `momentum` times the buffer, which already contains that gradient.
    """
    sgd = optax.sgd(schedule, momentum, nesterov)
    decayed = optax.chain(optax.add_decayed_weights(weight_decay), sgd)
    return optax.with_extra_args_support(decayed)


class Momenta(NamedTuple):
    """The state of `two_momenta`: the steps done, and for each part one buffer per parameter."""

    count: jax.Array
    buffers: tuple[Any, Any]


def two_momenta(
    schedule: optax.Schedule, *, momentum: float, offset: float, weight_decay: float
) -> optax.GradientTransformationExtraArgs:
    """SGD on the gradients of two parts of a loss; see `methods/dot.py`.

    The momentum is lower by `offset` for the first part and higher by `offset` for the second; a
    parameter on which only one part depends has the plain `momentum`. Weight decay is added to the
    gradient of the first part that depends on the parameter. If that is the second part, decay
    begins with the second step, as in the released code.
    """

    def init(params: Any) -> Momenta:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Momenta(jnp.zeros((), jnp.int32), (zeros, zeros))

    def update(grads: Any, state: Momenta, params: Any, *, reached: Any) -> tuple[Any, Momenta]:
        def moved(part: int, own_momentum: float, own_decay: Any) -> Any:
            def one(reached: frozenset[int], param: Any, buffer: Any, gradient: Any) -> Any:
                kept = own_momentum if len(reached) == 2 else momentum
                decay = own_decay if part == min(reached, default=0) else 0.0
                return kept * buffer + gradient + decay * param

            return jax.tree.map(one, reached, params, state.buffers[part], grads[part])

        later_decay = jnp.where(state.count > 0, weight_decay, 0.0)
        first = moved(0, momentum - offset, weight_decay)
        second = moved(1, momentum + offset, later_decay)
        rate = schedule(state.count)
        updates = jax.tree.map(lambda one, two: -rate * (one + two), first, second)
        return updates, Momenta(state.count + 1, (first, second))

    return optax.GradientTransformationExtraArgs(init, update)
