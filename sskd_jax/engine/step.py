"""The step: student and frozen teacher forward, a method's terms, gradient, SGD.

From `gather` on, every function is a per-device program over the axis "batch". A method sees the global batch: what it
needs is gathered on every device, so each computes the whole loss, and the mean of the devices' gradients is then
exactly the gradient of that loss (the transpose of all_gather sums what every device contributed).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

from sskd_jax import views
from sskd_jax.axis import AXIS
from sskd_jax.engine.devices import Mapped, run_once
from sskd_jax.types import Array, Batch, Method, Outputs, Params, Streamed, Terms

METHOD_KEY = np.uint32(
    2**32 - 1
)  # where no image of a batch is: what a method draws has a key beside theirs


class Task(NamedTuple):
    """What is fixed in the programs of one stage.

    Attributes:
      student: the network that learns, or None where a method trains its own parameters on the teacher alone.
      teacher: the frozen network, or None.
      method: whose terms are minimised.
      weights: of every term.
      optimizer: of the student's and the method's parameters together.
      augment: (key, uint8[H, W, C]) -> f32[V, H, W, C] for training.
      plain: uint8[H, W, C] -> f32[V, H, W, C] for evaluation.
      steps_per_epoch: after which the running sums begin anew.
    """

    student: nn.Module | None
    teacher: nn.Module | None
    method: Method
    weights: Mapping[str, float]
    optimizer: optax.GradientTransformation
    augment: Callable[[Array, Array], Array]
    plain: Callable[[Array], Array]
    steps_per_epoch: int


class TrainState(NamedTuple):
    """What a step changes; stacked over the devices and donated.

    Attributes:
      step: i32[], steps done.
      params: {"student": ..., "method": ...}.
      batch_stats: of the student's batch norms.
      opt_state: of the optimizer.
      memory: what the method carries.
      sums: of the loss, its terms and the method's figures over this epoch's steps, by name.
      spoiled: i32[], the step, counted from 1, in which each of them and the gradient was first not finite; 0: none.
    """

    step: Array
    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    memory: Params
    sums: dict[str, Array]
    spoiled: dict[str, Array]


class Frozen(NamedTuple):
    """What a stage reads and never changes; replicated, not donated, in no optimizer.

    Attributes:
      key: u32[2], of everything random in the stage.
      image: u8[M, H, W, C], the whole split; u8[0, H, W, C] where it is streamed.
      label: i32[M]; i32[0] where it is streamed and the method carries no memory.
      teacher: variables of the teacher.
      pretrained: parameters by the name of the stage that they were learned in.
    """

    key: Array
    image: Array
    label: Array
    teacher: Params
    pretrained: Params


def initial_state(
    task: Task,
    key: Array,
    frozen: Frozen,
    start: Params | None = None,
    run: Callable[..., TrainState] = run_once,
) -> TrainState:
    """Step 0; a student starts from the variables `start`, or else from the same ones whatever method teaches it.

    With `run=jax.eval_shape` it is the shapes alone, for which nothing is compiled.
    """
    pixels = jax.ShapeDtypeStruct(frozen.image.shape[1:], jnp.uint8)
    image = jax.ShapeDtypeStruct((2, *jax.eval_shape(task.plain, pixels).shape), jnp.float32)
    teacher = task.teacher and jax.eval_shape(partial(forward, task.teacher), frozen.teacher, image)
    return run(partial(begin, task, image, teacher), key, start or {}, frozen.label)


def begin(
    task: Task,
    image: jax.ShapeDtypeStruct,
    teacher: Outputs | None,
    key: Array,
    start: Params,
    label: Array,
) -> TrainState:
    """Step 0 as one program; `image` [2, V, H, W, C] and the teacher's outputs are shapes only."""
    student_key, method_key = jax.random.split(key)
    variables = start or (
        task.student.init(student_key, jnp.zeros(image.shape)[:, 0]) if task.student else {}
    )
    student = task.student and jax.eval_shape(partial(forward, task.student), variables, image)
    memory = task.method.memory(jax.random.fold_in(method_key, 1), student, teacher, label)
    params = {
        "student": variables.get("params", {}),
        "method": task.method.init(method_key, student, teacher),
    }
    terms, figures = jax.eval_shape(partial(trace_loss, task.method), student, teacher)
    names = ("loss", *terms, *figures)
    return TrainState(
        jnp.zeros((), jnp.int32),
        params,
        variables.get("batch_stats", {}),
        task.optimizer.init(params),
        memory,
        {name: jnp.zeros(()) for name in names},
        {name: jnp.zeros((), jnp.int32) for name in (*names, "gradient")},
    )


def trace_loss(
    method: Method, student: Outputs | None, teacher: Outputs | None = None
) -> tuple[Terms, Terms]:
    """What `method.loss` returns for outputs of two images: to be traced, for names and mistakes."""
    key, zeros = jax.random.PRNGKey(0), jnp.zeros(2, jnp.int32)
    pretrained = {
        name: stage.init(key, student if stage.student else None, teacher)
        for name, stage in method.pretrain.items()
    }
    batch = {
        "label": zeros,
        "index": zeros,
        "epoch": zeros[0],
        "key": key,
        "memory": method.memory(key, student, teacher, zeros),
    }
    return method.loss(method.init(key, student, teacher), pretrained, student, teacher, batch)


def forward(network: nn.Module, variables: Params, image: Array) -> Outputs:
    """Evaluation mode: normalised by the running statistics. image [N, V, H, W, C]."""
    return network.apply(variables, image.reshape(-1, *image.shape[2:]))


def gather(tree: Any) -> Any:
    """Every leaf [n, ...] of one device as the global [N, ...] of all."""
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS, tiled=True), tree)


def gather_outputs(outputs: Outputs | None, chosen: slice = slice(0)) -> Outputs | None:
    """Logits, embeddings and the `chosen` maps of the global batch; maps are large, so the others stay local."""
    if outputs is None:
        return None
    maps, preacts = list(outputs.maps), list(outputs.preacts)
    maps[chosen], preacts[chosen] = gather((maps[chosen], preacts[chosen]))
    return outputs._replace(
        logits=gather(outputs.logits),
        embed=gather(outputs.embed),
        maps=tuple(maps),
        preacts=tuple(preacts),
    )


def teach(task: Task, frozen: Frozen, image: Array) -> Outputs | None:
    outputs = (
        lax.stop_gradient(forward(task.teacher, frozen.teacher, image)) if task.teacher else None
    )
    return gather_outputs(outputs, task.method.gathered)


def look_up(frozen: Frozen, rows: Array | Streamed) -> Streamed:
    """The images at `rows` i32[n] of the split on the device, unless they come themselves."""
    return (
        rows
        if isinstance(rows, Streamed)
        else Streamed(frozen.image[rows], frozen.label[rows], rows)
    )


def draw(
    task: Task, state: TrainState, frozen: Frozen, rows: Array | Streamed
) -> tuple[Array, Batch]:
    """Views [n, V, H, W, C] of this device's images, and the global batch. Keyed by the place in the global batch."""
    image, label, index = look_up(frozen, rows)
    position = lax.axis_index(AXIS) * index.size + jnp.arange(index.size)
    key = jax.random.fold_in(frozen.key, state.step)
    image = jax.vmap(task.augment)(views.keys(key, position), image)
    batch = gather({"label": label, "index": index})
    return image, batch | {
        "epoch": state.step // task.steps_per_epoch,
        "key": jax.random.fold_in(key, METHOD_KEY),
        "memory": state.memory,
    }


def train_step(task: Task, state: TrainState, frozen: Frozen, rows: Array | Streamed) -> TrainState:
    """One SGD step on the images `rows` [n] of every device."""
    image, batch = draw(task, state, frozen, rows)
    teacher = teach(task, frozen, image)

    def objective(params: Params) -> tuple[Array, tuple[Params, Outputs | None, dict[str, Array]]]:
        student, batch_stats = None, state.batch_stats
        if task.student:
            variables = {"params": params["student"], "batch_stats": state.batch_stats}
            student, updated = task.student.apply(
                variables, image.reshape(-1, *image.shape[2:]), train=True, mutable=["batch_stats"]
            )
            batch_stats = updated["batch_stats"]
        student = gather_outputs(student, task.method.gathered)
        terms, figures = task.method.loss(
            params["method"], frozen.pretrained, student, teacher, batch
        )
        loss = sum(task.weights[name] * term for name, term in terms.items())
        return loss, (batch_stats, student, {"loss": loss, **terms, **figures})

    grads, (batch_stats, student, values) = jax.grad(objective, has_aux=True)(state.params)
    grads, values = lax.pmean((grads, values), AXIS)
    updates, opt_state = task.optimizer.update(grads, state.opt_state, state.params)
    new_epoch = state.step % task.steps_per_epoch == 0
    sums = {
        name: jnp.where(new_epoch, 0, state.sums[name]) + value for name, value in values.items()
    }
    spoiled = {
        name: jnp.where(
            (state.spoiled[name] == 0) & ~jnp.isfinite(value), state.step + 1, state.spoiled[name]
        )
        for name, value in (values | {"gradient": total(grads)}).items()
    }
    memory = task.method.remember(state.params["method"], student, teacher, batch)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state, memory, sums, spoiled)


def total(tree: Params) -> Array:
    """The sum of all numbers in a tree, in one pass: an accelerator starts two small programs for every sum."""
    return jnp.sum(
        lax.optimization_barrier(jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]))
    )


def train_steps(
    task: Task,
    state: TrainState,
    frozen: Frozen,
    order: Array | Streamed,
    start: Array,
    stop: Array,
) -> tuple[TrainState, dict[str, Array]]:
    """Steps start ... stop - 1 of `order` in one dispatch; its leaves [steps, n, ...] are this device's images.

    Returns the state and a copy of `spoiled`, which outlives the donation of the state to the next dispatch.
    """
    state = lax.fori_loop(
        start, stop, lambda i, state: train_step(task, state, frozen, at(order, i)), state
    )
    return state, jax.tree.map(jnp.copy, state.spoiled)


def at(tree: Any, i: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def train_program(task: Task, devices: Sequence[jax.Device]) -> Mapped:
    return Mapped(partial(train_steps, task), devices, shared=2, donate=True)
