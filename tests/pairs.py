"""Helpers of the methods' tests: arrays, nets with given outputs, checks of losses, states."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from golden import Golden, assert_near
from tiny import CLASSES, TinyNet, images, make_task, part_of

from configs.methods import METHODS as ENTRIES
from sskd_jax.engine.begin import sketch
from sskd_jax.engine.devices import run_once
from sskd_jax.engine.step import initial_state
from sskd_jax.engine.task import Frozen, Task, TrainState
from sskd_jax.methods import METHODS
from sskd_jax.models.network import Branches
from sskd_jax.types import Batch, Losses, Method, Nets, Outputs, Params, Stage, View

Loss = Callable[..., jax.Array]


def check_golden(shared, name: str, loss: Loss, rtol: float = 1e-4) -> None:
    """Asserts that value and gradient of loss(student, teacher) are the recorded ones."""
    gold = Golden(shared / "golden").under("losses.npz", name)
    value_and_gradient = jax.jit(jax.value_and_grad(loss))
    value, gradient = value_and_gradient(gold["in/student"], gold["in/teacher"])
    np.testing.assert_allclose(value, gold["loss"].reshape(()), rtol=rtol)
    np.testing.assert_allclose(
        gradient, gold["grad/student"], rtol=10 * rtol, atol=rtol * np.abs(gradient).max()
    )


def check_recent(shared, key: str, term: str, loss: Loss, gradient: str = "grad") -> None:
    """Asserts that loss(student, teacher, label) is the recorded `term`, with its gradient."""
    gold = Golden(shared / "golden").arrays("losses_recent.npz")
    given = "in_k100" if key.partition("/")[0].endswith("_k100") else "in"
    args = [gold[f"{given}/{name}"] for name in ("student", "teacher", "label")]
    value, found = jax.jit(jax.value_and_grad(loss))(*args)
    assert_near(value, gold[f"{key}/{term}"], 1e-4)
    assert_near(found, gold[f"{key}/{gradient}/student"], 1e-4)


def check_golden_maps(gold: dict[str, np.ndarray], loss: Loss) -> None:
    """As `check_golden`, for a loss of maps; there is one of each network, or a numbered list."""
    maps = [
        [gold[name] for name in sorted(gold) if name.startswith(f"in/{who}")]
        for who in ("student", "teacher")
    ]
    gradients = [gold[name] for name in sorted(gold) if name.startswith("grad/student")]
    if "in/student" in gold:
        maps = [one for (one,) in maps]
        (gradients,) = gradients
    value, found = jax.jit(jax.value_and_grad(loss))(*maps)
    np.testing.assert_allclose(value, gold["loss"].reshape(()), rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max()),
        found,
        gradients,
    )


def arrays(*shape: int, seed: int = 0) -> np.ndarray:
    """Normally distributed numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def given_nets(**nets: Any) -> Nets:
    """Nets that give these outputs for any input; a function among the outputs is a net itself."""

    def net(outputs: Any) -> Callable[..., Any]:
        return outputs if callable(outputs) else lambda *_: outputs

    return {name: net(outputs) for name, outputs in nets.items()}


def given_batch(label: np.ndarray, **more: Any) -> Batch:
    """A batch with these labels, whose `see` returns the view that it is given, not pixels."""

    def see(view: View, image: jax.Array | None = None) -> View:
        return view

    image = np.zeros((len(label), 2, 2, 3), np.uint8)
    return Batch(image, label, np.arange(len(label)), see, **more)


def given_losses(stage: Stage, label: Any, *, epoch: Any = 0, **nets: Any) -> Losses:
    """The losses of a stage whose nets give the outputs in `nets` for any input.

    A net of the stage that is left out here raises a KeyError if the loss calls it.
    """
    assert set(nets) <= set(stage.nets)
    return stage.loss(given_nets(**nets), given_batch(label, epoch=epoch))


def outputs(
    logits: np.ndarray | None = None, embed: np.ndarray | None = None, *maps: np.ndarray
) -> Outputs:
    """A forward pass with these arrays; the maps are also their own pre-activations.

    If they are not given, logits [B, 10] and embed [B, 3] are random.
    """
    rows = next(len(x) for x in (logits, embed, *maps) if x is not None)
    logits = arrays(rows, 10) if logits is None else logits
    embed = arrays(rows, 3) if embed is None else embed
    return Outputs(logits, embed, maps, maps)


def check_blind(
    loss: Loss, student: np.ndarray, teacher: np.ndarray, *others: tuple[np.ndarray, np.ndarray]
) -> None:
    """Asserts that the loss of each other pair is that of the first, which is not 0."""
    loss = jax.jit(loss)
    base = float(loss(student, teacher))
    assert abs(base) > 1e-8
    for pair in others:
        np.testing.assert_allclose(loss(*pair), base, rtol=2e-4)


def check_at_ties(loss: Loss, student: np.ndarray, teacher: np.ndarray) -> None:
    """Asserts that a loss and its gradient are finite, and the latter below 1e6, at equal numbers.

    The cases are rows of zeros, rows that are all alike, and a student that equals its teacher.
    """
    same, zeros = student.copy(), np.zeros_like(student)
    same[1:] = same[:1]
    agreed = [(teacher, teacher)] if student.shape == teacher.shape else []
    value_and_gradient = jax.jit(jax.value_and_grad(loss))
    for pair in [
        (zeros, teacher),
        (same, teacher),
        (student, np.zeros_like(teacher)),
        (zeros, zeros),
        *agreed,
    ]:
        value, gradient = value_and_gradient(*pair)
        assert np.isfinite(value) and np.isfinite(gradient).all() and np.abs(gradient).max() < 1e6


class Beginning(NamedTuple):
    """A stage on tiny networks: its task, what is frozen, and the state before its first step."""

    task: Task
    frozen: Frozen
    state: TrainState


def configured(method: str) -> Method:
    """A method with the numbers of its config."""
    return METHODS[method](**ENTRIES[method].numbers)


# Every stage once: nearly all methods that have a teacher's stage share it, and two methods share a
# student's.
STAGES = [
    *((name, stage) for name in ENTRIES for stage in configured(name) if stage != "teacher"),
    ("kd", "teacher"),
    ("hsakd_joint", "teacher"),
]
STAGES.remove(("hsakd_joint", "student"))


# Methods whose tiny networks have one stage and one branch after it, to compile in a short time.
BRANCHED = ("hsakd", "hsakd_joint", "hssakd")


def network(method: str, net: str) -> nn.Module:
    """A tiny student or teacher; the teacher is wider if the method allows different widths."""
    is_wider = net.startswith("teacher") and method not in ("fsp", "kdsvd")
    widths = (8, 8, 24 if is_wider else 16)
    if method in BRANCHED:
        return part_of(TinyNet(num_classes=CLASSES, blocks=(1,), widths=widths[1:]), net)
    return TinyNet(num_classes=CLASSES, widths=widths)


@cache
def variables_of(module: nn.Module, seed: int) -> Params:
    """Random weights of a network, made once for all stages that it takes part in."""
    return run_once(module.init, jax.random.key(seed), np.zeros((1, 8, 8, 3), np.float32))


@cache
def beginning(method: str, stage: str) -> Beginning:
    """The beginning of a stage on 48 random images, with random weights of all its nets."""
    # The term kd counts as well, as it does in a method with "+kd".
    weights = {name: weight or 1.0 for name, weight in ENTRIES[method].weights["code"].items()}
    weights = weights if stage == "student" else None
    return begin(configured(method)[stage], partial(network, method), weights)


def begin(
    stage: Stage,
    network: Callable[[str], nn.Module],
    weights: Mapping[str, float] | None = None,
) -> Beginning:
    """The beginning of a stage; `network` makes the module of each architecture."""
    task, nets = make_task(stage, weights), stage.nets
    made = {name: network(net.module) for name, net in nets.items() if isinstance(net.module, str)}
    task = task._replace(modules=task.modules | made)
    whole = {name: module for name, module in made.items() if not isinstance(module, Branches)}
    start = {name: variables_of(module, seed) for seed, (name, module) in enumerate(whole.items())}
    frozen = Frozen(jax.random.PRNGKey(1), **images(), nets={})
    # As if all nets of the stage learned, so that one short program makes all first weights.
    all_learn = {name: net._replace(learns=True, start="") for name, net in nets.items()}
    everything = task._replace(stage=stage._replace(nets=all_learn))
    state = initial_state(everything, jax.random.key(4), frozen, start)
    still = {name: state.variables[name] for name, net in nets.items() if net.is_frozen}
    params, batch_stats = (
        {name: own for name, own in tree.items() if name not in still}
        for tree in (state.params, state.batch_stats)
    )
    learned = {name: own for name, own in params.items() if nets[name].learns}
    state = state._replace(
        params=params, batch_stats=batch_stats, opt_state=task.optimizer.init(learned)
    )
    frozen = frozen._replace(nets=still)
    if stage.momentum_offset:  # the optimizer needs what each of the two parts reaches
        task = task._replace(reached=sketch(task, frozen, {}).reached)
    return Beginning(task, frozen, state)
