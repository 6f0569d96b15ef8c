"""Our step program against the SGD steps that the reference took.

Both begin with the same weights, on the same batch.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, assert_near
from recorded import (
    assert_recorded,
    by_name,
    first_gradients,
    first_state,
    is_recorded,
    make_task,
    take_steps,
)

from sskd_jax.engine.task import Frozen, Task, TrainState
from sskd_jax.exchange import torch_bridge
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS
from sskd_jax.types import Params

SEEDS = {("wrn_40_2", "wrn_16_2"): 10, ("vgg13", "MobileNetV2"): 20}
LOSSES = ("ce", "kd", "tf", "ss", "loss")  # the columns of the recording
WEIGHTS = {"ce": 0.1, "kd": 0.9, "tf": 2.7, "ss": 10.0}
WEIGHT_DECAY = 5e-4
NUMBERS = {
    "kd_temperature": 4.0,
    "tf_temperature": 4.0,
    "ss_temperature": 0.5,
    "tf_ratio": 1.0,
    "ss_ratio": 0.75,
    "transformation": "rotation",
    "head_temperature": 1.0,
}


def four_views(images: np.ndarray) -> np.ndarray:
    """The rows [4N, H, W, C] of images [N, H, W, C] in four rotations."""
    views = np.stack([np.rot90(images, k, (1, 2)) for k in range(4)], 1)
    return views.reshape(-1, *images.shape[1:])


def head(gold: Golden, width: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """The projection head's parameters as proj_head.0 and proj_head.2 have them."""
    return {
        layer: {
            "kernel": gold.fill(f"proj_head.{layer}.weight", (width, width), seed).T,
            "bias": gold.fill(f"proj_head.{layer}.bias", (width,), seed),
        }
        for layer in ("0", "2")
    }


class Steps(NamedTuple):
    """What was recorded, the state before and after our steps, and what was seen on the way."""

    gold: dict[str, np.ndarray]
    task: Task
    frozen: Frozen
    before: TrainState
    first: TrainState
    after: TrainState
    losses: list[dict[str, float]]


def student_task(teacher: str, student: str, rate: float) -> Task:
    """The student's stage of SSKD."""
    networks = {"student": student, "teacher": teacher}
    return make_task(
        METHODS["sskd"](**NUMBERS)["student"],
        {name: MODELS[model](num_classes=100) for name, model in networks.items()},
        WEIGHTS,
        num_classes=100,
        learning_rate=rate,
        momentum=0.9,
        weight_decay=WEIGHT_DECAY,
    )


def recorded_variables(golden: Golden, model: str, seed: int) -> tuple[Params, Params]:
    """Those of a network, and of the projection head after it."""
    weights = golden.state_dict(model, seed, "backbone.")
    width = golden.models[model]["pooled_dim"]
    return torch_bridge.from_state_dict(model, weights), {"params": head(golden, width, seed)}


def make_frozen(golden: Golden, teacher: str, seed: int, label: np.ndarray) -> Frozen:
    names = ("teacher", "teacher_head")
    nets = dict(zip(names, recorded_variables(golden, teacher, seed), strict=True))
    image, key = golden.images(seed + 3, len(label)), np.zeros(2, np.uint32)
    return Frozen(key, image, label.astype(np.int32), nets)


PAIRS = [
    ("wrn_40_2", "wrn_16_2"),
    pytest.param(("vgg13", "MobileNetV2"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", ids=" to ".join, params=PAIRS)
def steps(request, shared) -> Steps:
    (teacher, student), golden = request.param, Golden(shared / "golden")
    seed = SEEDS[request.param]
    gold = golden.arrays(f"step_{teacher}_{student}.npz")
    task = student_task(teacher, student, float(gold["lr"]))
    frozen = make_frozen(golden, teacher, seed, gold["label"])
    learned = zip(("student", "head"), recorded_variables(golden, student, seed + 1), strict=True)
    before = first_state(task, dict(learned), {}, ["accuracy", "contrastive"])
    states = take_steps(task, frozen, before, len(gold["losses"]))
    losses = [state.sums for state in states]
    return Steps(gold, task, frozen, before, states[0], states[-1], losses)


def torch_name(name: str) -> str:
    """The recording's name of a parameter."""
    net, _, rest = name.partition(".")
    return {"student": "backbone", "head": "proj_head"}[net] + f".{rest}"


def recorded(gold: dict[str, np.ndarray], kind: str) -> dict[str, float]:
    """The norms of a kind by name."""
    return {
        key.removeprefix(f"{kind}/"): float(value)
        for key, value in gold.items()
        if key.startswith(f"{kind}/")
    }


def unlike(params: Params, expected: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Those of parameters, or anything of their structure, whose norm is another one."""
    actual = by_name(params, torch_name)
    norms = {name: np.linalg.norm(actual[name]) for name in expected}
    return {
        name: (norms[name], value)
        for name, value in expected.items()
        if not is_recorded(norms[name], value)
    }


def test_losses_of_every_step(steps):
    for losses, expected in zip(steps.losses, steps.gold["losses"], strict=True):
        assert_recorded([losses[name] for name in LOSSES], expected)


@pytest.mark.parametrize("steps", PAIRS[:1], indirect=True, ids=" to ".join)
def test_in_float32_losses_differ_by_rounding(steps):
    states = take_steps(steps.task, steps.frozen, steps.before, len(steps.losses), jnp.float32)
    losses = [[state.sums[name] for name in LOSSES] for state in states]
    np.testing.assert_array_less(np.abs(losses - steps.gold["losses"]), steps.gold["losses_tol"])


def test_first_gradients(steps):
    expected = recorded(steps.gold, "grad0_l2")
    assert {"proj_head.0.weight", "proj_head.2.bias"} < set(expected)
    assert not unlike(first_gradients(steps.before, steps.first, WEIGHT_DECAY), expected)


def test_parameters_after_the_last_step(steps):
    expected = recorded(steps.gold, "param_l2")
    assert set(expected) == set(by_name(steps.after.params, torch_name))
    assert not unlike(steps.after.params, expected)


def test_they_would_notice_a_lost_step(steps):
    expected = recorded(steps.gold, "param_l2")
    for state in (steps.before, steps.first):
        assert unlike(state.params, expected)


def logits(steps: Steps, net: str, variables: Params, **mode: Any) -> np.ndarray:
    """Of a network for the first eight rows; batch norms may need all of them."""
    rows = four_views(steps.frozen.image)
    apply = jax.jit(partial(steps.task.modules[net].apply, **mode))
    outputs = apply(variables, rows)
    return (outputs[0] if mode else outputs).logits[:8]


def test_evaluation_after_the_last_step(steps):
    found = logits(steps, "student", steps.after.variables["student"])
    difference = np.abs(found - steps.gold["eval_logits_after"]).max()
    assert difference <= steps.gold["eval_logits_after_tol"]


def test_the_teacher_is_the_recorded_one(steps):
    found = logits(steps, "teacher", steps.frozen.nets["teacher"])
    assert_near(found, steps.gold["teacher_logits"], 1e-4)


def test_the_student_starts_as_the_recorded_one(steps):
    variables = steps.before.variables["student"]
    found = logits(steps, "student", variables, train=True, mutable=["batch_stats"])
    assert_near(found, steps.gold["student_logits0"], 1e-4)
