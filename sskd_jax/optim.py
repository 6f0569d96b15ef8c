"""SGD as PyTorch means it, and the milestone schedule."""
from collections.abc import Sequence

import optax


def milestone_schedule(learning_rate: float, milestones: Sequence[float], decay: float,
                       steps_per_epoch: int) -> optax.Schedule:
    """`learning_rate`, times `decay` from the start of every epoch in `milestones` (counted from 0)."""
    return optax.piecewise_constant_schedule(
        learning_rate, {round(epoch * steps_per_epoch): decay for epoch in milestones})


def sgd(schedule: optax.Schedule, *, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """torch.optim.SGD: decay is added to the gradient of every parameter, batch norm and bias too, before momentum."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum))
