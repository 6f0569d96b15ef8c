"""The training step: loss, gradient, optimizer, moving averages and memory.

`train_steps` and the functions that it calls are per-device programs over the axis of
`sskd_jax.axis`. A loss may gather the whole batch (`everywhere`); then each device computes the
whole loss, or its mean over the device's own images. The mean of the devices' gradients is exactly
the gradient of the global loss: the transpose of all_gather sums what every device contributed.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from sskd_jax.axis import AXIS, device_index, differs, everywhere, mean_over_devices
from sskd_jax.engine.begin import begin
from sskd_jax.engine.devices import Mapped, run_once
from sskd_jax.engine.task import (
    ONCE,
    Frozen,
    Health,
    Task,
    TrainState,
    gather_examples,
    net_functions,
    objective,
    tied,
    viewer,
)
from sskd_jax.types import Array, Batch, Params, Streamed, UserError


def make_batch(task: Task, state: TrainState, frozen: Frozen, index: Array | Streamed) -> Batch:
    """The argument `batch` of the loss in step `state.step`."""
    image, label, index = gather_examples(frozen, index)
    label, index = everywhere((label, index))
    key = jax.random.fold_in(frozen.key, state.step)
    return Batch(
        image=image,
        label=label,
        index=index,
        see=viewer(task.optics, key, image),
        epoch=state.step // task.steps_per_epoch,
        key=jax.random.fold_in(key, ONCE),
        memory=state.memory,
        counts=task.counts,
    )


def train_step(
    task: Task, state: TrainState, frozen: Frozen, index: Array | Streamed
) -> TrainState:
    """One step on the examples `index` [n] of every device."""
    nets = task.stage.nets
    learned = {name: own for name, own in state.params.items() if nets[name].learns}
    batch = make_batch(task, state, frozen, index)
    dropout = jax.random.fold_in(jax.random.fold_in(batch.key, ONCE), device_index())

    def loss(learned: Params) -> tuple[Any, tuple[Params, Any, dict[str, Array]]]:
        moved = state._replace(params=state.params | learned)
        functions, stats = net_functions(task, {**frozen.nets, **moved.variables}, dropout)
        losses = task.stage.loss(functions, batch)
        parts = objective(task, losses)
        values = {"loss": sum(jax.tree.leaves(parts)), **losses.terms, **losses.figures}
        return parts, ({name: stats[name] for name in moved.params}, losses.memory, values)

    grads, (batch_stats, memory, values) = gradients(loss, learned)
    grads, values = mean_over_devices((grads, values))
    updates, opt_state = task.optimizer.update(
        grads, state.opt_state, learned, reached=task.reached
    )
    params = state.params | apply_updates(learned, updates, task.reached)
    for name, net in nets.items():
        if net.follows:
            leader = params[net.follows]
            params[name] = optax.incremental_update(leader, params[name], 1 - net.momentum)
    watched = values | {"gradient": sum_of_leaves(grads)}
    return TrainState(
        step=state.step + 1,
        params=tied(task, {name: own["params"] for name, own in frozen.nets.items()} | params),
        batch_stats=batch_stats,
        opt_state=opt_state,
        memory=memory,
        sums=add_to_epoch(task, state, values),
        first_nonfinite={
            name: jnp.where((before == 0) & ~jnp.isfinite(watched[name]), state.step + 1, before)
            for name, before in state.first_nonfinite.items()
        },
    )


def check_step(
    task: Task, state: TrainState, frozen: Frozen, batch_size: int, devices: int
) -> None:
    """Traces a step of a whole batch on all devices, of which it raises what the user's code does.

    `begin` traces the loss alone, with networks in evaluation mode. Only shapes matter here.
    """
    count = batch_size // devices
    label = np.zeros(count, np.int32)
    image = np.zeros((count, *frozen.image.shape[1:]), np.uint8)
    on_all = jax.vmap(partial(train_step, task), None, axis_name=AXIS, axis_size=devices)
    after = jax.eval_shape(on_all, state, frozen, Streamed(image, label, label))
    if jax.tree.structure(after) != jax.tree.structure(state):
        raise UserError("a step changes the form of the networks' statistics or of the memory")


def gradients(loss: Callable[[Params], tuple[Any, Any]], learned: Params) -> tuple[Any, Any]:
    """The gradient of a loss, or one for each of its parts, and the loss's auxiliary output."""
    parts, pull_back, beside = jax.vjp(loss, learned, has_aux=True)
    leaves, form = jax.tree.flatten(parts)
    one_by_one = np.eye(len(leaves), dtype=jnp.result_type(*leaves))
    found = [pull_back(jax.tree.unflatten(form, one))[0] for one in one_by_one]
    return jax.tree.unflatten(form, found), beside


def apply_updates(params: Params, updates: Params, reached: Any) -> Params:
    """params + updates where `reached`, such a tree or a prefix of one, is true or not empty."""

    def apply(is_reached: Any, params: Params, updates: Params) -> Params:
        return optax.apply_updates(params, updates) if is_reached else params

    return jax.tree.map(apply, reached, params, updates)


def add_to_epoch(task: Task, state: TrainState, values: dict[str, Array]) -> dict[str, Array]:
    """The running sums of an epoch plus this step's values; its first step starts from 0."""
    is_first = state.step % task.steps_per_epoch == 0
    return {
        name: jnp.where(is_first, 0, state.sums[name]) + value for name, value in values.items()
    }


def sum_of_leaves(tree: Params) -> Array:
    """The sum of all numbers in a tree, in one pass.

    One sum per leaf would make an accelerator start two small programs for each.
    """
    leaves = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    return jnp.sum(lax.optimization_barrier(leaves))


def train_steps(
    task: Task,
    state: TrainState,
    frozen: Frozen,
    order: Array | Streamed,
    start: Array,
    stop: Array,
) -> tuple[TrainState, Health]:
    """Runs steps start ... stop - 1 of `order`, with leaves [steps, n, ...], in one dispatch.

    Returns the state, and its `Health`, which stays valid when the state is donated to the next
    dispatch.
    """

    def step(i: Array, state: TrainState) -> TrainState:
        return train_step(task, state, frozen, jax.tree.map(lambda leaf: leaf[i], order))

    is_first = state.step % task.steps_per_epoch == 0
    state = lax.fori_loop(start, stop, step, state)
    carried = {f"{net}.batch_stats": stats for net, stats in state.batch_stats.items()}
    carried["memory"] = state.memory
    # Once per epoch, as devices exchange all of it, and a memory may hold a row for every image.
    unlike = lax.cond(
        is_first,
        lambda: {name: differs(tree) for name, tree in carried.items()},
        lambda: {name: jnp.asarray(False) for name in carried},
    )
    return state, Health(jax.tree.map(jnp.copy, state.first_nonfinite), unlike)


def train_program(task: Task, devices: Sequence[jax.Device]) -> Mapped:
    """`train_steps` on all devices: (stacked state, frozen, order, start, stop)."""
    return Mapped(partial(train_steps, task), devices, shared=2, donate=True)


def initial_state(
    task: Task, key: Array, frozen: Frozen, start: Params | None = None
) -> TrainState:
    """The state of step 0 of a stage.

    Args:
      key: u32[2], with which the nets without a start and the memory are initialised. It is
        folded with a net's name, so a student's first weights are the same for all methods.
      frozen: its nets, its labels and the shape of its images are used.
      start: {"params", "batch_stats"} by net, for the nets that start from an earlier stage.
    """
    program = partial(begin, task, frozen.image.shape[1:])
    return run_once(program, key, frozen.label, frozen.nets, start or {})
