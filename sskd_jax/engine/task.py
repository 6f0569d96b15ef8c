"""The parts of a stage's programs: constants, state, and nets and views as functions."""

import functools
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from sskd_jax.axis import device_index
from sskd_jax.types import Array, Losses, Net, Nets, Params, Stage, Streamed, UserError, View
from sskd_jax.views import Optics

# Numbers with which a step's key is folded. Those below 2**31 are positions of images in the
# batch; so larger ones serve for draws for the whole batch, and for the second view onwards.
ONCE = np.uint32(2**32 - 1)
ANEW = np.uint32(2**31)


class Task(NamedTuple):
    """The constants of the programs of one stage.

    Attributes:
      stage: whose terms are minimised.
      modules: the module of every net, by name.
      weights: of every term.
      optimizer: of the parameters of all nets that learn together.
      optics: how training images are augmented and normalised.
      num_classes: of the dataset.
      steps_per_epoch: after so many steps the running sums start from 0 again.
      counts: () -> i64[K], how many training images each class has. For a streamed dataset it
        reads all labels, so only a stage that calls it pays for that.
      reached: a tree with, for every parameter of the nets that learn, the numbers of the
        objective's parts that depend on it. A parameter on which none depends is neither updated
        nor decayed; PyTorch's optimizers skip it, too.
      scores: names of the stage's scores, in its order.
    """

    stage: Stage
    modules: Mapping[str, nn.Module]
    weights: Mapping[str, float]
    optimizer: optax.GradientTransformationExtraArgs
    optics: Optics
    num_classes: int
    steps_per_epoch: int
    counts: Callable[[], np.ndarray] | None = None
    reached: Any = True
    scores: tuple[str, ...] = ()


class TrainState(NamedTuple):
    """What a step changes. It is stacked over the devices and donated.

    Attributes:
      step: i32[], steps done.
      params: by net, of those that are not frozen.
      batch_stats: likewise, of their batch norms.
      opt_state: of the optimizer.
      memory: what the stage carries.
      sums: of the loss, its terms and figures over this epoch's steps, by name.
      first_nonfinite: i32[] for each of these names and "gradient": the first step, counted from
        1, in which its value was not finite; 0: none.
    """

    step: Array
    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    memory: Any
    sums: dict[str, Array]
    first_nonfinite: dict[str, Array]

    @property
    def variables(self) -> Params:
        """{"params", "batch_stats"} of the nets that are not frozen, by net."""
        return {
            net: {"params": params, "batch_stats": self.batch_stats[net]}
            for net, params in self.params.items()
        }


class Health(NamedTuple):
    """What tells, after a dispatch, that training must not go on.

    Attributes:
      first_nonfinite: a copy of that of the state.
      unlike: bool[] for "memory" and "NET.batch_stats" of every net: whether devices hold different
        ones after an epoch's first dispatch, as they do if a user's code makes them of each
        device's share of the batch.
    """

    first_nonfinite: dict[str, Array]
    unlike: dict[str, Array]


class Frozen(NamedTuple):
    """What a stage reads and never changes. It is replicated, not donated and not optimized.

    Attributes:
      key: u32[2], of everything random in the stage's steps.
      image: u8[M, H, W, C], the whole split; u8[0, H, W, C] where it is streamed.
      label: i32[M]; i32[0] where it is streamed and the stage carries no memory.
      nets: variables of the frozen nets by name.
    """

    key: Array
    image: Array
    label: Array
    nets: Params


def tied(task: Task, params: Params) -> Params:
    """The params of the nets that are not frozen, as `Stage.tied` makes them of those of all."""
    found = task.stage.tied(params)
    return {name: own for name, own in found.items() if not task.stage.nets[name].is_frozen}


def traced_once(module: nn.Module, method: str) -> Callable[..., Any]:
    """A module's "init" or "apply", traced once for inputs of the same shapes.

    Equal modules share the trace: tracing a network takes a third of a second, and several
    programs of a run contain the same network.
    """
    try:
        return inlined(module, method)
    except TypeError:  # a module with a list among its attributes has no hash
        return getattr(module, method)


@functools.cache
def inlined(module: nn.Module, method: str) -> Callable[..., Any]:
    return jax.jit(getattr(module, method), inline=True)


class Functions(dict):
    """Nets as functions of arrays, by name."""

    def __missing__(self, name: str) -> Callable[..., Any]:
        raise UserError(
            f"the net {name!r} is called, but its stage does not declare it: it has "
            f"{', '.join(self)}"
        )


def complete(variables: Params) -> Params:
    """{"params", "batch_stats"} of a net; flax leaves one of them out if it is empty.

    So every program calls the net with variables of one structure, and it is traced once.
    """
    return {name: variables.get(name, {}) for name in ("params", "batch_stats")}


def net_functions(
    task: Task, variables: Params, dropout: Array | None = None
) -> tuple[Nets, dict[str, Params]]:
    """The nets as functions, and a dict with their batch statistics, which the calls update.

    Args:
      variables: {"params", "batch_stats"} of every net by name.
      dropout: the key of what dropout draws, in training; None: in evaluation. In training, nets
        that learn or follow also normalise by the batch and update their statistics; frozen ones
        never do.
    """
    calls = itertools.count()
    variables = {name: complete(own) for name, own in variables.items()}
    stats = {name: own["batch_stats"] for name, own in variables.items()}

    def call(name: str, *args: Any, **kwargs: Any) -> Any:
        module, net = task.modules[name], task.stage.nets[name]
        own = {"params": variables[name]["params"], "batch_stats": stats[name]}
        if dropout is None or not (net.learns or net.follows):
            return as_float32(net, traced_once(module, "apply")(own, *args, **kwargs))
        rngs = {"dropout": jax.random.fold_in(dropout, next(calls))}
        in_training = {"train": True, "rngs": rngs, "mutable": ["batch_stats"]}
        outputs, moved = module.apply(own, *args, **kwargs, **in_training)
        stats[name] = moved.get("batch_stats", {})
        return as_float32(net, outputs)

    return Functions({name: partial(call, name) for name in task.stage.nets}), stats


def as_float32(net: Net, outputs: Any) -> Any:
    """What a net returns; of a network, logits and embed in float32, as losses are computed in it.

    A user's own network may have computed them in bfloat16.
    """
    if not net.is_network:
        return outputs
    logits, embed = (leaf.astype(jnp.float32) for leaf in (outputs.logits, outputs.embed))
    return outputs._replace(logits=logits, embed=embed)


def viewer(optics: Optics, key: Array, image: Array) -> Callable[..., Array]:
    """The function `see` of a `Batch` with this device's share `image` u8[n, H, W, C]."""
    calls = itertools.count()

    def see(view: View, pixels: Array | None = None) -> Array:
        number, pixels = next(calls), image if pixels is None else pixels
        drawn = jax.random.fold_in(key, ANEW + np.uint32(number)) if number else key
        count = pixels.shape[0]
        # The position in the whole batch, so that no draw depends on the number of devices.
        place = device_index() * count + jnp.arange(count)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(drawn, place)
        seen = jax.vmap(partial(view, optics))(keys, pixels)
        return seen.reshape(-1, *seen.shape[2:])

    return see


def gather_examples(frozen: Frozen, index: Array | Streamed) -> Streamed:
    """Image, label and index of this device's examples.

    They are gathered from the resident split at `index` i32[n]; streamed examples are returned as
    they are.
    """
    if isinstance(index, Streamed):
        return index
    return Streamed(frozen.image[index], frozen.label[index], index)


def objective(task: Task, losses: Losses) -> Array | tuple[Array, Array]:
    """What a step minimises: every term times its weight.

    With a `momentum_offset` it has two parts, the first term and the sum of the others.
    """
    weighted = {name: task.weights[name] * term for name, term in losses.terms.items()}
    if not task.stage.momentum_offset:
        return sum(weighted.values())
    first = weighted.pop(task.stage.terms[0])
    return first, sum(weighted.values())
