"""Momenta of their own for the two terms of KD, against the released optimizer's steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import Golden, assert_near
from ml_collections import ConfigDict
from pairs import arrays, given_losses, outputs
from tiny import make_frozen, make_task, sketched

from sskd_jax.engine.optim import two_momenta
from sskd_jax.engine.step import gradients
from sskd_jax.engine.task import objective
from sskd_jax.methods.dot import dot
from sskd_jax.methods.kd import kd
from sskd_jax.sections import optimizer_of
from sskd_jax.types import Losses, UserError

STAGE = dot(temperature=4.0, momentum_offset=0.075)["student"]
REACHED = {"both": frozenset({0, 1}), "task_only": frozenset({0}), "kd_only": frozenset({1})}


@pytest.mark.parametrize(("key", "offset"), [("dot", 0.075), ("dot_decay", 0.09)])
def test_the_released_steps(shared, key, offset):
    """Of a parameter that both terms move, of one that the task moves alone, and of one that KD."""
    gold = Golden(shared / "golden").under("losses_recent.npz", key)
    params = {name: gold[f"in/{name}"] for name in REACHED}
    decay = float(gold["in/weight_decay"])
    rates = jnp.asarray(gold["in/rate"], jnp.float32)
    optimizer = two_momenta(
        lambda step: rates[step], momentum=0.9, offset=offset, weight_decay=decay
    )
    state = optimizer.init(params)
    for step in range(3):
        grads = tuple(
            {
                name: gold.get(f"in/{part}_gradient_{name}", np.zeros((3, 1)))[step]
                for name in REACHED
            }
            for part in ("task", "kd")
        )
        updates, state = optimizer.update(grads, state, params, reached=REACHED)
        params = optax.apply_updates(params, updates)
        for name in REACHED:
            assert_near(params[name], gold[f"after_{name}"][step], 1e-6)
        for part, buffers in zip(("task", "kd"), state.buffers, strict=True):
            for name in REACHED:
                if f"{part}_buffer_{name}" in gold:
                    assert_near(buffers[name], gold[f"{part}_buffer_{name}"][step], 1e-6)


def test_every_part_has_its_gradient():
    def loss(x):
        return (x["a"] ** 2, x["a"] * x["b"]), "beside"

    grads, beside = gradients(loss, {"a": 3.0, "b": 5.0})
    assert grads == ({"a": 6.0, "b": 0.0}, {"a": 5.0, "b": 3.0}) and beside == "beside"
    assert gradients(lambda x: (x**2, None), 3.0) == (6.0, None)


def test_the_terms_are_those_of_kd():
    nets = {"student": outputs(arrays(5, 4)), "teacher": outputs(arrays(5, 4, seed=1))}
    plain = kd(temperature=4.0, standardize=False)["student"]
    ours, theirs = (given_losses(stage, np.arange(5) % 4, **nets) for stage in (STAGE, plain))
    assert ours == theirs and STAGE.nets == plain.nets


def test_the_labels_have_the_lower_momentum_and_kd_the_higher_one():
    losses = Losses({"kd": 3.0, "ce": 2.0})
    assert objective(make_task(STAGE)._replace(weights={"ce": 0.1, "kd": 0.9}), losses) == (
        0.2,
        2.7,
    )
    section = ConfigDict({"momentum": 0.9, "weight_decay": 0.0, "nesterov": False})
    optimizer = optimizer_of("student", section, STAGE, lambda step: 1.0)
    reached, params = frozenset({0, 1}), np.zeros(())
    state = optimizer.init(params)
    for grads, expected in (((1.0, 10.0), -11.0), ((0.0, 0.0), -(0.825 + 9.75))):
        update, state = optimizer.update(grads, state, params, reached=reached)
        np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_both_terms_move_the_whole_student():
    task = make_task(STAGE)
    task, _ = sketched(task, make_frozen(task))
    assert set(jax.tree.leaves(task.reached["student"])) == {frozenset({0, 1})}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nesterov": True}, "student.nesterov: momenta that differ by term have no such form"),
        ({"momentum": 0.95}, "student.momentum is 0.95: with method.momentum_offset=0.075 give"),
        ({"momentum": 0.05}, "give a number from 0.075 on, below 0.925"),
    ],
)
def test_momenta_that_cannot_be_are_refused(changes, message):
    section = {"momentum": 0.9, "weight_decay": 0.0, "nesterov": False} | changes
    with pytest.raises(UserError, match=message):
        optimizer_of("student", ConfigDict(section), STAGE, lambda step: 0.1)


def test_a_single_term_has_no_two_momenta():
    section, stage = (
        ConfigDict({"momentum": 0.9, "weight_decay": 0.0}),
        STAGE._replace(terms=("ce",)),
    )
    with pytest.raises(UserError, match="a momentum_offset parts two terms or more"):
        optimizer_of("student", section, stage, lambda step: 0.1)
