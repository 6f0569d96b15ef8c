"""One step: on any number of devices, in dispatches cut anywhere, and what it updates."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from tiny import (
    OPTICS,
    images,
    make_frozen,
    make_task,
    sketched,
    sskd_task,
    start_state,
)

from sskd_jax.axis import everywhere
from sskd_jax.engine.devices import RUN_OFTEN, Mapped, compiler_options, replicated, unreplicate
from sskd_jax.engine.step import initial_state, train_program
from sskd_jax.engine.task import Frozen, Task, TrainState
from sskd_jax.methods.common import supervised, unscored
from sskd_jax.types import Array, Batch, Losses, Stage, UserError, follows, learns
from sskd_jax.views import once

ORDER = np.random.default_rng(0).permutation(48).reshape(3, 16).astype(np.int32)
TASK = sskd_task(steps_per_epoch=2)


@functools.cache
def program(devices: int) -> Mapped:
    """The student's step of SSKD; on one device as a run compiles it."""
    made = train_program(TASK, jax.devices()[:devices])
    if devices == 1:
        made.options = compiler_options(RUN_OFTEN, "cpu")
    return made


@functools.cache
def beginning() -> tuple[TrainState, Frozen]:
    frozen = make_frozen(TASK)
    return start_state(TASK, frozen), frozen


def train(devices: int, *cuts: int, step: int = 0) -> tuple[TrainState, list[dict]]:
    """Steps of 16 images on so many devices, dispatched from cut to cut.

    Returns the stacked state, and its sums after every dispatch.
    """
    state, frozen = replicated(beginning(), jax.devices()[:devices])
    state = state._replace(step=state.step + step)
    order, sums = ORDER.reshape(3, devices, -1).swapaxes(0, 1), []
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        state, _ = program(devices)(state, frozen, order, start, stop)
        sums.append(unreplicate(state.sums))
    return jax.device_get((state, sums))


@pytest.fixture(scope="module")
def on_one_device():
    return train(1, 0, 3)


@pytest.mark.parametrize("devices", [2, 8])
def test_same_numbers_on_any_number_of_devices(devices, on_one_device):
    state = train(devices, 0, 3)[0]
    for one, many in zip(jax.tree.leaves(on_one_device[0]), jax.tree.leaves(state), strict=True):
        for device in range(devices):
            np.testing.assert_allclose(many[device], one[0], rtol=2e-4, atol=2e-6)


def test_dispatches_may_be_cut_anywhere(on_one_device):
    whole, cut = on_one_device[0], train(1, 0, 1, 3)[0]
    jax.tree.map(np.testing.assert_array_equal, cut, whole)


def test_everything_that_learns_moves(on_one_device):
    state = on_one_device[0]
    before, after = (jax.tree.leaves(tree) for tree in (beginning()[0].params, state.params))
    for old, new in zip(before, after, strict=True):
        assert np.abs(old - new[0]).max() > 0
    assert state.step[0] == 3
    assert set(state.params) == {"student", "head"}


def test_sums_are_named_and_weighted():
    (sums,) = train(1, 0, 2)[1]
    assert {"loss", "ce", "kd", "tf", "ss", "accuracy", "contrastive"} == set(sums)
    weighted = sum(TASK.weights[name] * sums[name] for name in TASK.weights)
    np.testing.assert_allclose(sums["loss"], weighted, rtol=1e-5)


def test_sums_begin_anew_with_an_epoch_of_two_steps():
    one, two, three = (sums["ce"] for sums in train(1, 0, 1, 2, 3)[1])
    assert two > 1.5 * one and three < 0.75 * two


class Counted(NamedTuple):
    """What a step makes of a loss that is not a number, and of the epoch as a figure."""

    nonfinite: int
    epochs: list[float]


@pytest.fixture(scope="module")
def counted() -> Counted:
    def loss(nets: Any, batch: Batch) -> Losses:
        logits = nets["student"](batch.see(once)).logits
        figures = {"epoch": batch.epoch.astype(jnp.float32)}
        return Losses({"ce": jnp.nan * logits.sum()}, figures)

    stage = Stage(("ce",), {"student": learns("student")}, loss, unscored)
    task, device = make_task(stage)._replace(steps_per_epoch=2), jax.devices()[:1]
    frozen = Frozen(jax.random.PRNGKey(1), **images(), nets={})
    task, found = sketched(task, frozen)
    state, many = replicated((start_state(task, frozen), frozen), device)
    program, epochs, first = train_program(task, device), [], None
    for _ in range(4):
        state, health = program(state, many, ORDER[:1, None].swapaxes(0, 1), 0, 1)
        epochs.append(float(unreplicate(state.sums)["epoch"]))
        first = first or int(unreplicate(health.first_nonfinite)["loss"])
    return Counted(first, epochs)


def test_the_first_step_that_is_not_finite_is_named(counted):
    assert counted.nonfinite == 1


def test_the_epoch_is_that_of_the_step(counted):
    """Two steps of the epoch 0, then two of the epoch 1, as sums that begin anew."""
    assert counted.epochs == [0.0, 0.0, 1.0, 2.0]


def test_views_differ_from_step_to_step():
    assert train(1, 0, 1, step=0)[1][0]["ce"] != train(1, 0, 1, step=2)[1][0]["ce"]


class Dropped(nn.Module):
    """Logits of an image of which half of the colours are dropped."""

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Array:
        kept = nn.Dropout(0.5, deterministic=not train)(image)
        return nn.Dense(10, name="fc")(kept.mean((1, 2)))


def test_what_is_drawn_differs_from_step_to_step(on_one_device):
    """The batch's key, and dropout; the rate is so small that the network stays the same."""

    def loss(nets, batch):
        drawn = jax.random.uniform(batch.key)
        return Losses({"drawn": nets["student"](batch.see(once)).sum() + 0 * drawn}, {"key": drawn})

    stage = Stage(("drawn",), {"student": learns(Dropped())}, loss, unscored)
    task = make_task(stage, {"drawn": 1e-9}, steps_per_epoch=1, optics=OPTICS.plain())
    frozen = make_frozen(task)
    task, _ = sketched(task, frozen)
    device = jax.devices()[:1]
    state, many = replicated(start_state(task, frozen), device), replicated(frozen, device)
    program, same = train_program(task, device), ORDER[:1, None].swapaxes(0, 1)
    found = []
    for _ in range(2):
        state, _ = program(state, many, same, 0, 1)
        found.append(unreplicate(state.sums))
    for name in ("key", "drawn"):
        assert abs(found[0][name] - found[1][name]) > 1e-3, name


def test_bfloat16_networks_keep_float32_parameters_statistics_and_losses(on_one_device):
    task, device = sskd_task(steps_per_epoch=2, dtype=jnp.bfloat16), jax.devices()[:1]
    state, frozen = replicated(beginning(), device)
    quickly = train_program(task, device)
    state, _ = quickly(state, frozen, ORDER[:, None].swapaxes(0, 1), 0, 1)
    sums = unreplicate(state.sums)
    leaves = jax.tree.leaves((state.params, state.batch_stats, sums))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    for name, value in train(1, 0, 1)[1][0].items():
        if name in task.weights:
            np.testing.assert_allclose(sums[name], value, rtol=0.05)
            assert sums[name] != value


class Parts(nn.Module):
    """Two results, each with parameters of its own, and scalars that begin as constants."""

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> dict[str, Array]:
        temperature = self.param("temperature", lambda key: jnp.ones(()))
        shift = self.param("shift", lambda key: jnp.zeros(()))
        self.param("unused", lambda key: jnp.ones(()))
        embed = nn.relu(nn.Dense(4, name="used")(image.mean((1, 2))))
        other = nn.Dense(3, name="elsewhere")(embed)
        return {"embed": embed * temperature + shift, "other": other}


def partly_used() -> Stage:
    """The loss asks for one of the two things that its net gives."""

    def loss(nets, batch) -> Losses:
        parts = nets["parts"](batch.see(once))
        return Losses({"size": jnp.mean(jnp.square(parts["embed"] - 1))})

    return Stage(("size",), {"parts": learns(Parts())}, loss, unscored)


def one_step(task: Task, frozen: Frozen, state: TrainState) -> TrainState:
    """The state after a step on one device, on the host."""
    device = jax.devices()[:1]
    made = train_program(task, device)
    after, _ = made(*replicated((state, frozen), device), ORDER[None], 0, 1)
    return unreplicate(after)


@pytest.fixture(scope="module")
def partly() -> tuple[Task, TrainState, TrainState]:
    """A task of which only a part is used, and its state before and after a step."""
    task = make_task(partly_used())
    frozen = make_frozen(task)
    task, _ = sketched(task, frozen)
    before = start_state(task, frozen)
    return task, jax.device_get(before), one_step(task, frozen, before)


YES, NO = frozenset({0}), frozenset()
REACHED = {
    "temperature": YES,
    "shift": YES,
    "unused": NO,
    "used": {"kernel": YES, "bias": YES},
    "elsewhere": {"kernel": NO, "bias": NO},
}


def test_what_the_loss_does_not_depend_on_is_found_without_computing_it(partly):
    assert partly[0].reached == {"parts": REACHED}


def test_it_is_found_of_a_net_that_goes_on_from_an_earlier_stage_too(partly):
    task, before, _ = partly
    start = before.variables
    assert sketched(task, make_frozen(task), start)[0].reached == {"parts": REACHED}


def test_what_the_loss_does_not_depend_on_is_neither_updated_nor_decayed(partly):
    task, before, after = partly

    def check(reached: frozenset[int], old: np.ndarray, new: np.ndarray) -> None:
        assert np.array_equal(old, new) is not bool(reached)

    jax.tree.map(check, task.reached, before.params, after.params)


def test_without_that_everything_would_decay(partly):
    """The step updates what `reached` marks, so a task that marks all would shrink the rest."""
    task, before, _ = partly
    frozen = make_frozen(task)
    after = one_step(task._replace(reached=True), frozen, before)
    old, new = (state.params["parts"]["elsewhere"]["kernel"] for state in (before, after))
    np.testing.assert_allclose(new, old * (1 - 0.05 * 5e-4), rtol=1e-6)
    assert not np.array_equal(new, old)


def led(momentum: float = 0.75) -> Stage:
    """A net, and the moving average of it that it is kept near to."""

    def loss(nets, batch) -> Losses:
        leader = nets["leader"](batch.see(once))["embed"]
        follower = jax.lax.stop_gradient(nets["follower"](batch.see(once))["embed"])
        return Losses({"distance": jnp.mean(jnp.square(leader - follower - 1))})

    nets = {"leader": learns(Parts()), "follower": follows("leader", Parts(), momentum)}
    return Stage(("distance",), nets, loss, unscored)


def test_a_follower_starts_as_its_leader_and_is_updated_behind_every_step():
    task = make_task(led())
    frozen = make_frozen(task)
    task, _ = sketched(task, frozen)
    before = jax.device_get(start_state(task, frozen))
    jax.tree.map(np.testing.assert_array_equal, *before.params.values())
    after = one_step(task, frozen, before)
    expected = jax.tree.map(
        lambda old, leader: 0.75 * old + 0.25 * leader,
        before.params["follower"],
        after.params["leader"],
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6), after.params["follower"], expected
    )
    kernels = [after.params[name]["used"]["kernel"] for name in ("leader", "follower")]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    assert "follower" not in task.reached and "follower" not in before.opt_state


@pytest.mark.parametrize("make", [everywhere, lambda tree: tree], ids=["whole", "share"])
def test_a_memory_made_of_shares_is_noticed(make):
    def loss(nets, batch) -> Losses:
        logits = nets["student"](batch.see(once)).logits
        last = make(jnp.mean(logits, keepdims=True)).mean()
        return Losses({"size": jnp.mean(jnp.square(logits))}, memory={"last": last})

    def memory(key, facts):
        return {"last": jnp.zeros(())}

    stage = Stage(("size",), {"student": learns("student")}, loss, unscored, memory)
    task, devices = make_task(stage), jax.devices()[:2]
    frozen = make_frozen(task)
    task, _ = sketched(task, frozen)
    state, many = replicated((start_state(task, frozen), frozen), devices)
    program = train_program(task, devices)
    _, health = program(state, many, ORDER.reshape(3, 2, -1).swapaxes(0, 1), 0, 1)
    found = {name: bool(value) for name, value in unreplicate(health.unlike).items()}
    assert found == {"student.batch_stats": False, "memory": make is not everywhere}


def test_a_net_begins_alike_whatever_stands_beside_it():
    """Random weights depend on a net's name and the seed, so all methods' students are one."""
    alone = make_task(supervised("student"))
    frozen = Frozen(jax.random.PRNGKey(1), **images(), nets={})
    student = start_state(alone, frozen).variables["student"]
    jax.tree.map(np.testing.assert_array_equal, student, beginning()[0].variables["student"])


def test_a_net_that_goes_on_from_an_earlier_stage_begins_as_it_was_left():
    task = make_task(supervised("student"))
    frozen = Frozen(jax.random.PRNGKey(1), **images(), nets={})
    left = jax.tree.map(lambda leaf: leaf + 1, beginning()[0].variables["student"])
    state = initial_state(task, jax.random.key(0), frozen, {"student": left})
    jax.tree.map(np.testing.assert_array_equal, state.variables["student"], left)


@pytest.mark.parametrize(
    ("nets", "called", "terms", "message"),
    [
        (
            {"parts": learns(Parts()), "spare": learns(Parts())},
            ("parts",),
            ("size",),
            "declares the net 'spare', but its loss never calls it: call it, or leave it out",
        ),
        (
            {"parts": learns(Parts())},
            ("parts", "head"),
            ("size",),
            "the net 'head' is called, but its stage does not declare it: it has parts",
        ),
        (
            {"parts": learns(Parts())},
            ("parts",),
            ("size", "other"),
            "names the terms size, other, but its loss returns size: name just those",
        ),
        (
            {"parts": learns(Parts())},
            ("parts",),
            ("length",),
            "names the terms length, but its loss returns size: name just those",
        ),
        (
            {"parts": learns(Parts()), "key": follows("part", Parts(), 0.9)},
            ("parts", "key"),
            ("size",),
            "unknown net for 'key' to follow 'part': did you mean 'parts'",
        ),
    ],
    ids=["never called", "not declared", "too few terms", "other terms", "follows nobody"],
)
def test_a_loss_that_does_not_keep_what_its_stage_says(nets, called, terms, message):
    def loss(nets, batch) -> Losses:
        given = [nets[name](batch.see(once))["embed"] for name in called]
        return Losses({"size": jnp.mean(jnp.square(given[0]))})

    task = make_task(Stage(terms, nets, loss, unscored))
    frozen = Frozen(jax.random.PRNGKey(1), **images(), nets={})
    with pytest.raises(UserError, match=message):
        sketched(task, frozen)
