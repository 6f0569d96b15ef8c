"""SGD and its schedule against PyTorch's rules, written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import Golden, assert_near

from sskd_jax.engine.optim import milestone_schedule, sgd
from sskd_jax.engine.step import apply_updates

RNG = np.random.default_rng(0)
START = {
    "kernel": RNG.standard_normal((3, 2)).astype(np.float32),
    "bn": {"scale": np.ones(2, np.float32)},
}
GRADIENTS = [
    {
        "kernel": RNG.standard_normal((3, 2)).astype(np.float32),
        "bn": {"scale": np.full(2, step, np.float32)},
    }
    for step in range(7)
]


def torch_sgd(
    p: np.ndarray,
    gradients: list[np.ndarray],
    rates: list[float],
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
) -> np.ndarray:
    """torch.optim.SGD, no dampening: the rate stands outside the momentum buffer."""
    p, buffer = np.float64(p), 0.0
    for g, rate in zip(gradients, rates, strict=True):
        g = g + weight_decay * p
        buffer = momentum * buffer + g
        p = p - rate * (g + momentum * buffer if nesterov else buffer)
    return p


def run(optimizer: optax.GradientTransformation, gradients: list) -> dict:
    params, state = START, optimizer.init(START)
    for gradient in gradients:
        updates, state = jax.jit(optimizer.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "nesterov"),
    [(0.9, 5e-2, False), (0.9, 0.0, False), (0.0, 5e-2, False), (0.9, 5e-2, True)],
)
def test_sgd_is_that_of_pytorch(momentum, weight_decay, nesterov):
    schedule = milestone_schedule(0.1, (2,), 0.1, steps_per_epoch=2)
    numbers = dict(momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    params = run(sgd(schedule, **numbers), GRADIENTS)
    rates = [0.1] * 4 + [0.01] * 3
    for path in (("kernel",), ("bn", "scale")):
        actual, start, *gradients = (leaf(tree, path) for tree in (params, START, *GRADIENTS))
        np.testing.assert_allclose(actual, torch_sgd(start, gradients, rates, **numbers), rtol=1e-5)


def test_nesterov_steps_are_the_recorded_ones(shared):
    """Of PyTorch's own optimizer, with momentum .9 and decay 5e-4."""
    gold = Golden(shared / "golden").under("hsakd.npz", "sgd_nesterov")
    rates = jnp.asarray(gold["in/rate"], jnp.float32)
    optimizer = sgd(lambda step: rates[step], momentum=0.9, weight_decay=5e-4, nesterov=True)
    params = jnp.asarray(gold["in/param"])
    state = optimizer.init(params)
    for gradient, expected in zip(gold["in/gradient"], gold["param"], strict=True):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        assert_near(params, expected, 1e-6)


def leaf(tree: dict, path: tuple[str, ...]) -> np.ndarray:
    for key in path:
        tree = tree[key]
    return tree


def test_decay_moves_every_parameter_even_without_a_gradient():
    zeros = jax.tree.map(jnp.zeros_like, START)
    params = run(sgd(lambda step: 0.1, momentum=0.9, weight_decay=0.5), [zeros])
    for after, before in zip(jax.tree.leaves(params), jax.tree.leaves(START), strict=True):
        np.testing.assert_allclose(after, 0.95 * before, rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.05),
        (1499, 0.05),
        (1500, 5e-3),
        (1799, 5e-3),
        (1800, 5e-4),
        (2099, 5e-4),
        (2100, 5e-5),
        (2400, 5e-5),
    ],
)
def test_the_rate_falls_at_the_start_of_a_milestone(step, expected):
    schedule = milestone_schedule(0.05, (150, 180, 210), 0.1, steps_per_epoch=10)
    np.testing.assert_allclose(schedule(step), expected, rtol=1e-5)


def test_no_milestones_keep_the_rate():
    schedule = milestone_schedule(0.05, (), 0.1, steps_per_epoch=10)
    assert schedule(0) == schedule(10**6) == 0.05


def test_one_cycle_rises_and_falls_in_equal_steps():
    schedule = milestone_schedule(1.0, (), 0.1, 2, warmup_epochs=2, epochs=5, cooldown_epochs=3)
    np.testing.assert_allclose(
        [schedule(step) for step in range(10)],
        [1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
        rtol=1e-6,
    )


def test_a_milestone_may_lie_within_an_epoch():
    schedule = milestone_schedule(1.0, (0.5,), 0.5, steps_per_epoch=10)
    assert [float(schedule(step)) for step in (4, 5)] == [1.0, 0.5]


def test_the_schedule_works_on_a_traced_step():
    schedule = milestone_schedule(0.05, (1,), 0.1, steps_per_epoch=3)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(schedule))(jnp.arange(5)), [0.05] * 3 + [0.005] * 2, rtol=1e-5
    )


def test_what_the_loss_does_not_depend_on_does_not_decay():
    reached = {"kernel": True, "bn": {"scale": False}}
    zeros = jax.tree.map(jnp.zeros_like, START)
    optimizer = sgd(lambda step: 0.1, momentum=0.9, weight_decay=0.5)
    updates, _ = optimizer.update(zeros, optimizer.init(START), START)
    params = apply_updates(START, updates, reached)
    np.testing.assert_allclose(params["kernel"], 0.95 * START["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(params["bn"]["scale"], START["bn"]["scale"])


@pytest.mark.parametrize("reached", [True, {"kernel": True, "bn": True}])
def test_what_is_reached_may_be_said_of_a_whole_branch(reached):
    ones = jax.tree.map(jnp.ones_like, START)
    moved = apply_updates(START, ones, reached)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b + 1), moved, START)


def test_along_a_cosine_every_epoch_has_its_rate():
    schedule = milestone_schedule(0.2, (), 0.1, steps_per_epoch=2, epochs=4, cosine=True)
    expected = 0.1 * (1 + np.cos(np.pi * np.arange(4) / 4))
    np.testing.assert_allclose([schedule(i) for i in range(8)], np.repeat(expected, 2), rtol=1e-5)


def test_two_milestones_on_one_step_both_count():
    schedule = milestone_schedule(1.0, (0.75, 1.0), 0.1, steps_per_epoch=2)
    np.testing.assert_allclose([schedule(1), schedule(2)], [1.0, 0.01], rtol=1e-6)
