"""Steps of a stage from recorded weights, to be compared with the recorded reference's steps.

Both are in float64 by default. In float32 it depends on the order of a sum, and so on the
processor, on which side of zero the input of some ReLU lies; gradients then jump by much more than
a rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from golden import Golden

from experiments.cost import in_dtype
from sskd_jax.engine import optim
from sskd_jax.engine.devices import replicated, unreplicate
from sskd_jax.engine.step import train_program
from sskd_jax.engine.task import Frozen, Task, TrainState
from sskd_jax.exchange import torch_bridge
from sskd_jax.exchange.torch_bridge import LEAVES
from sskd_jax.types import Params, Stage
from sskd_jax.views import Optics

# With these options, a step takes two to four times as long to compile. But without them, CoCa's
# takes seven times as long to run.
OPTIMISED = {"xla_backend_optimization_level": 1}
# The recorded images are already normalised: divided by 255 and by this std, they stay as they are.
OPTICS = Optics(flip=False, pad=0, mean=(0.0,) * 3, std=(1 / 255,) * 3)
TO_TORCH = torch_bridge.TO_TORCH | {1: (0,)}
TO_FLAX = torch_bridge.TO_FLAX | {1: (0,)}

Rename = Callable[[str], str]  # "net.layer1.0.conv1.weight" -> the recording's name


def torch_names(tree: Mapping[str, Params], rename: Rename) -> dict[tuple[str, ...], str]:
    """The recording's name of every leaf of {net: its params or batch_stats}."""
    return {
        path: rename(".".join([*path[:-1], LEAVES.get(path[-1], path[-1])]))
        for path in flatten_dict(tree)
    }


def filled(golden: Golden, shapes: Mapping[str, Params], rename: Rename, seed: int = 0) -> Params:
    """{net: tree} of these shapes, with the arrays that `fill` draws by the recording's names."""
    names, leaves = torch_names(shapes, rename), flatten_dict(shapes)
    found = {}
    for path, name in names.items():
        shape = leaves[path].shape
        turned = tuple(shape[axis] for axis in TO_TORCH[len(shape)])
        value = golden.fill(name, turned, seed)
        found[path] = value.transpose(TO_FLAX[len(shape)])
    return unflatten_dict(found)


def by_name(tree: Mapping[str, Params], rename: Rename) -> dict[str, np.ndarray]:
    """The leaves of {net: tree} by the recording's names."""
    leaves = flatten_dict(tree)
    return {name: np.asarray(leaves[path]) for path, name in torch_names(tree, rename).items()}


def norms(tree: Mapping[str, Params], rename: Rename, names: Sequence[str]) -> np.ndarray:
    """The L2 norms of leaves, in the order of the recording's `names`."""
    found = by_name(tree, rename)
    return np.array([np.linalg.norm(np.float64(found[name])) for name in names])


def make_task(
    stage: Stage,
    modules: Mapping[str, Any],
    weights: Mapping[str, float],
    num_classes: int = 10,
    **rates: float,
) -> Task:
    """The task of a stage; an epoch is one step, so that the state's sums are those of a step."""
    learning_rate = rates.pop("learning_rate")
    optimizer = optim.sgd(optim.milestone_schedule(learning_rate, (), 0.1, 1), **rates)
    modules = {name: net.module for name, net in stage.nets.items()} | modules
    return Task(stage, modules, weights, optimizer, OPTICS, num_classes, steps_per_epoch=1)


def shapes_of(task: Task, inputs: Mapping[str, Any]) -> Params:
    """The shapes of {"params", "batch_stats"} of every net, from its `inputs`, by net."""
    return {
        name: jax.eval_shape(task.modules[name].init, jax.random.key(0), *args)
        for name, args in inputs.items()
    }


def first_state(task: Task, variables: Params, memory: Any, names: Sequence[str]) -> TrainState:
    """The state before the first step, from the variables of the nets that learn or follow."""
    params = {net: own["params"] for net, own in variables.items()}
    learned = {net: own for net, own in params.items() if task.stage.nets[net].learns}
    sums = ("loss", *task.stage.terms, *names)
    return TrainState(
        step=np.int32(0),
        params=params,
        batch_stats={net: own.get("batch_stats", {}) for net, own in variables.items()},
        opt_state=task.optimizer.init(learned),
        memory=memory,
        sums=dict.fromkeys(sums, np.float32(0)),
        first_nonfinite=dict.fromkeys((*sums, "gradient"), np.int32(0)),
    )


def take_steps(
    task: Task,
    frozen: Frozen,
    state: TrainState,
    count: int,
    dtype: Any = jnp.float64,
    optimised: bool = False,
) -> list[TrainState]:
    """The states after each of `count` steps in a dtype, every one on all images of `frozen`.

    The step is compiled with the options `OPTIMISED`, or not optimised at all.
    """

    def converted(leaf: np.ndarray) -> np.ndarray:
        return leaf.astype(dtype) if leaf.dtype == np.float32 else leaf

    device = jax.devices()[:1]
    order = np.arange(len(frozen.label), dtype=np.int32)[None, None]
    modules = {name: in_dtype(module, dtype) for name, module in task.modules.items()}
    states = []
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(dtype == jnp.float64):
        patch.setattr(jnp, "float32", dtype)  # by which the package names its full precision
        program = train_program(task._replace(modules=modules), device)
        program.options = OPTIMISED if optimised else {}
        state, resident = replicated(jax.tree.map(converted, (state, frozen)), device)
        for _ in range(count):
            state, _ = program(state, resident, order, 0, 1)
            states.append(unreplicate(state))  # a copy, as the state is donated to the next step
    return states


def first_gradients(before: TrainState, after: TrainState, weight_decay: float) -> Params:
    """The gradients of the first step: the optimizer's momentum without the weight decay."""
    memory = optax.tree_utils.tree_get(after.opt_state, "trace")
    learned = {net: before.params[net] for net in memory}
    return jax.tree.map(lambda held, own: held - weight_decay * own, memory, learned)


def is_recorded(actual: Any, expected: np.ndarray) -> np.ndarray:
    """Whether each value is the recorded one, up to learning rates and momenta in float32."""
    return np.isclose(np.float64(actual), expected, rtol=1e-6, atol=1e-9)


def assert_recorded(actual: Any, expected: np.ndarray) -> None:
    assert is_recorded(actual, expected).all(), np.abs(np.float64(actual) - expected).max()
