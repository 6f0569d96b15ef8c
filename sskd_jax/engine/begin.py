"""The first state of a stage, and what a trace of its loss shows before anything is computed."""

import zlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Var

from sskd_jax.axis import AXIS, everywhere
from sskd_jax.engine.task import (
    ONCE,
    Frozen,
    Functions,
    Task,
    TrainState,
    as_float32,
    complete,
    objective,
    tied,
    traced_once,
    viewer,
)
from sskd_jax.types import (
    Array,
    Batch,
    Facts,
    Losses,
    Outputs,
    Params,
    Stage,
    UserError,
    choose,
    expect,
)


def begin(
    task: Task, shape: tuple[int, ...], key: Array, label: Array, nets: Params, start: Params
) -> TrainState:
    """The state of step 0, as one program in which the loss is traced, but not computed."""
    return trace_loss(task, shape, key, label, nets, start)[0]


def trace_loss(
    task: Task,
    shape: tuple[int, ...],
    key: Array,
    label: Array,
    nets: Params,
    start: Params,
    count: int = 2,
) -> tuple[TrainState, Array | tuple[Array, Array]]:
    """The state of step 0 and its objective, from the loss of `count` black images.

    The first arguments of a net decide the shapes of its parameters.

    Raises:
      UserError: a net is called, but not declared, or declared, but never called; the terms are
        not those that the stage names; the memory changes its form; a network has other classes
        than the dataset; or the loss finds its networks unsuitable.
    """
    variables = {name: complete(own) for name, own in {**nets, **start}.items()}
    called, memory, stage = {}, {}, task.stage

    def call(name: str, *args: Any, **kwargs: Any) -> Any:
        module = task.modules[name]
        if name not in variables:
            first = jax.random.fold_in(key, zlib.crc32(name.encode()))
            # Copied, as `sketch` needs a separate variable of the traced program per parameter.
            made = traced_once(module, "init")(first, *args, **kwargs)
            variables[name] = jax.tree.map(jnp.copy, complete(made))
        called[name] = True
        outputs = traced_once(module, "apply")(variables[name], *args, **kwargs)
        if stage.nets[name].is_network:
            check_outputs(name, outputs, task.num_classes)
        return as_float32(stage.nets[name], outputs)

    if stage.memory:
        facts = Facts(label, shape, task.num_classes)
        memory = stage.memory(jax.random.fold_in(key, ONCE), facts)
    batch = black_batch(task, (count, *shape), key, memory)
    losses = stage.loss(Functions({name: partial(call, name) for name in stage.nets}), batch)
    check_loss(stage, losses, called)
    check_memory(memory, losses.memory)
    for name, net in stage.nets.items():
        if net.follows:
            choose(stage.nets, net.follows, f"net for {name!r} to follow")
            variables[name] = variables[net.follows]
    return untrained_state(task, variables, memory, losses), objective(task, losses)


def check_memory_fits(
    task: Task, frozen: Frozen, start: Params, batch_size: int, devices: int
) -> None:
    """Traces the loss of a whole batch on all devices, if a stage carries a memory.

    A memory may suit the two images of `sketch`, but not these. As there, only the shapes of
    `frozen` and `start` matter.

    Raises:
      UserError: as the loss does for such a batch.
    """
    if not task.stage.memory:
        return
    count = batch_size // devices
    on_device = partial(trace_loss, task, frozen.image.shape[1:], count=count)
    on_all = jax.vmap(on_device, in_axes=None, axis_name=AXIS, axis_size=devices)
    jax.eval_shape(on_all, frozen.key, frozen.label, frozen.nets, start)


def black_batch(task: Task, shape: tuple[int, ...], key: Array, memory: Any) -> Batch:
    """A device's share [n, H, W, C] of a batch of black images of class 0, in the first epoch."""
    image, zeros = jnp.zeros(shape, jnp.uint8), everywhere(jnp.zeros(shape[0], jnp.int32))
    return Batch(
        image=image,
        label=zeros,
        index=zeros,
        see=viewer(task.optics, key, image),
        epoch=zeros[0],
        key=key,
        memory=memory,
        counts=task.counts,
    )


def untrained_state(task: Task, variables: Params, memory: Any, losses: Losses) -> TrainState:
    """The state of step 0, given the variables of all nets; of `losses`, only the names matter."""
    nets = task.stage.nets
    own = {name: variables[name] for name, net in nets.items() if not net.is_frozen}
    params = tied(task, {name: net["params"] for name, net in variables.items()})
    learned = {name: tree for name, tree in params.items() if nets[name].learns}
    names = ("loss", *losses.terms, *losses.figures)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats={name: net["batch_stats"] for name, net in own.items()},
        opt_state=task.optimizer.init(learned),
        memory=memory,
        sums={name: jnp.zeros(()) for name in names},
        first_nonfinite={name: jnp.zeros((), jnp.int32) for name in (*names, "gradient")},
    )


def check_loss(stage: Stage, losses: Losses, called: Mapping[str, bool]) -> None:
    """Raises a `UserError` if the loss is not as its stage declares it."""
    expect(losses, Losses, "the loss")
    if unused := [name for name, net in stage.nets.items() if not (net.made or name in called)]:
        raise UserError(
            f"the stage declares the net {unused[0]!r}, but its loss never calls it: call it, or "
            "leave it out"
        )
    if set(losses.terms) != set(stage.terms):
        raise UserError(
            f"the stage names the terms {', '.join(stage.terms)}, but its loss returns "
            f"{', '.join(losses.terms) or 'none'}: name just those"
        )
    taken = {"loss", "gradient"} | (losses.terms.keys() & losses.figures.keys())
    if twice := sorted(taken & {*losses.terms, *losses.figures}):
        raise UserError(
            f"the loss returns {twice[0]!r}, which is logged of something else: give its term or "
            "figure another name"
        )
    for name, value in (losses.terms | dict(losses.figures)).items():
        if jnp.shape(value):
            raise UserError(
                f"{name!r} of the loss has the shape {list(jnp.shape(value))}, not that of a "
                "number: take its mean"
            )


def check_outputs(name: str, outputs: Any, num_classes: int) -> None:
    """Raises a `UserError` if a network's outputs are no `Outputs`, or have other shapes."""
    expect(outputs, Outputs, f"the {name}")
    if np.ndim(outputs.embed) != 2:
        raise UserError(
            f"the {name} gives an embed of the shape {list(np.shape(outputs.embed))}: let it be "
            "[B, D], a vector for each image"
        )
    shape = np.shape(outputs.logits)
    if shape[1:] != (num_classes,):
        raise UserError(
            f"the {name} gives logits of the shape {list(shape)} for {num_classes} classes: let "
            "its last layer have as many features as its field num_classes says"
        )


def check_memory(before: Any, after: Any) -> None:
    """Raises a `UserError` if a loss returns a memory of another kind than it was given."""
    old, new = (
        {
            jax.tree_util.keystr(path): (jnp.shape(leaf), jnp.result_type(leaf))
            for path, leaf in jax.tree_util.tree_leaves_with_path(memory)
        }
        for memory in (before, after)
    )
    for name in old | new:
        if old.get(name) != new.get(name):
            raise UserError(
                f"batch.memory{name} is {told(old.get(name))}, and the loss returns "
                f"{told(new.get(name))}: return the memory of the next step in Losses(memory=)"
            )


def told(kind: tuple[tuple[int, ...], Any] | None) -> str:
    """The shape and the type of an array, as text."""
    return f"{kind[1]}{list(kind[0])}" if kind else "nothing"


class Sketch(NamedTuple):
    """What is known of a stage before anything is computed.

    Attributes:
      state: of step 0, shapes only.
      reached: as in `Task`.
    """

    state: TrainState
    reached: Params


def sketch(task: Task, frozen: Frozen, start: Params) -> Sketch:
    """Traces a stage's loss; only the shapes of `frozen` and `start` matter, not their values.

    Raises:
      UserError: as `trace_loss`.
    """
    program = partial(trace_loss, task, frozen.image.shape[1:])
    jaxpr, shapes = jax.make_jaxpr(program, return_shape=True)(
        frozen.key, frozen.label, frozen.nets, start
    )
    state, parts = shapes
    outputs, count = jaxpr.jaxpr.outvars, len(jax.tree.leaves(parts))
    needed = [depends_on(jaxpr.jaxpr, [part]) for part in outputs[-count:]]
    # Every parameter is also an output of the program, so a part of the objective depends on a
    # parameter if it depends on that output. (Only the zeros among the outputs are literals.)
    found = [
        frozenset(i for i, inputs in enumerate(needed) if isinstance(var, Var) and var in inputs)
        for var in outputs[:-count]
    ]
    reached = jax.tree.unflatten(jax.tree.structure(state), found)
    nets = task.stage.nets
    return Sketch(state, {name: reached.params[name] for name in nets if nets[name].learns})


def depends_on(jaxpr: Jaxpr, outputs: Iterable[Any]) -> set[Var]:
    """The variables of a program from which at least one of its `outputs` is computed."""
    needed = {var for var in outputs if isinstance(var, Var)}
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(inputs_needed(equation, needed))
    return needed


def inputs_needed(equation: JaxprEqn, needed: set[Var]) -> set[Var]:
    """The inputs of an equation from which those of its outputs that are `needed` come.

    Dependencies inside a jitted function are followed; of any other equation, every output depends
    on every input. No gradient passes through `stop_gradient`, so it needs no input.
    """
    inputs = equation.invars
    if equation.primitive.name == "stop_gradient":
        inputs = []
    if equation.primitive.name == "jit":
        inner = equation.params["jaxpr"].jaxpr
        pairs = zip(equation.outvars, inner.outvars, strict=True)
        inside = depends_on(inner, [within for outer, within in pairs if outer in needed])
        pairs = zip(equation.invars, inner.invars, strict=True)
        inputs = [outer for outer, within in pairs if within in inside]
    return {var for var in inputs if isinstance(var, Var)}
