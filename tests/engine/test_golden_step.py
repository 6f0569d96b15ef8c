"""Our step program against the SGD steps that the reference took from the same weights on the same batch."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from golden import Golden, assert_near

from sskd_jax.axis import AXIS
from sskd_jax.engine import optim
from sskd_jax.engine.devices import replicated
from sskd_jax.engine.step import Frozen, Task, TrainState, forward, train_program
from sskd_jax.exchange import torch_bridge
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS

FAST = {"xla_backend_optimization_level": 0}
OPTIMISED = {
    "xla_backend_optimization_level": 3
}  # sums in one go round off more than MobileNetV2's tolerances allow
SEEDS = {("wrn_40_2", "wrn_16_2"): 10, ("vgg13", "MobileNetV2"): 20}
WEIGHTS = {"ce": 0.1, "kd": 0.9, "tf": 2.7, "ss": 10.0}
WEIGHT_DECAY = 5e-4
NUMBERS = dict(
    kd_temperature=4.0,
    tf_temperature=4.0,
    ss_temperature=0.5,
    tf_ratio=1.0,
    ss_ratio=0.75,
    head_temperature=1.0,
)


def four_views(image: jax.Array) -> jax.Array:
    return jnp.stack([jnp.rot90(image, k) for k in range(4)])


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
    student: str
    task: Task
    frozen: Frozen
    before: TrainState
    first: TrainState
    after: TrainState
    losses: list[dict[str, float]]


def make_task(teacher: str, student: str, rate: float) -> Task:
    networks = [MODELS[name](num_classes=100, axis_name=AXIS) for name in (student, teacher)]
    schedule = optim.milestone_schedule(rate, (), 0.1, 1)
    return Task(
        *networks,
        METHODS["sskd"](**NUMBERS),
        WEIGHTS,
        optim.sgd(schedule, momentum=0.9, weight_decay=WEIGHT_DECAY),
        lambda key, image: four_views(image),
        four_views,
        steps_per_epoch=1,
    )  # so that the sums are those of a single step


def make_frozen(golden: Golden, teacher: str, seed: int, label: np.ndarray) -> Frozen:
    variables = torch_bridge.from_state_dict(teacher, golden.state_dict(teacher, seed, "backbone."))
    pretrained = {"head": head(golden, golden.models[teacher]["pooled_dim"], seed)}
    image, key = golden.images(seed + 3, len(label)), np.zeros(2, np.uint32)
    return Frozen(key, image, label.astype(np.int32), variables, pretrained)


def make_state(golden: Golden, task: Task, student: str, seed: int) -> TrainState:
    variables = torch_bridge.from_state_dict(student, golden.state_dict(student, seed, "backbone."))
    params = {
        "student": variables["params"],
        "method": head(golden, golden.models[student]["pooled_dim"], seed),
    }
    sums = dict.fromkeys(("loss", *task.method.terms, "accuracy", "contrastive"), np.float32(0))
    return TrainState(
        np.int32(0),
        params,
        variables["batch_stats"],
        task.optimizer.init(params),
        {},
        sums,
        {name: np.int32(0) for name in (*sums, "gradient")},
    )


@pytest.fixture(
    scope="module",
    ids=" to ".join,
    params=[
        ("wrn_40_2", "wrn_16_2"),
        pytest.param(("vgg13", "MobileNetV2"), marks=pytest.mark.slow),
    ],
)
def steps(request, shared) -> Steps:
    (teacher, student), golden, seed = (
        request.param,
        Golden(shared / "golden"),
        SEEDS[request.param],
    )
    gold = golden.arrays(f"step_{teacher}_{student}.npz")
    task = make_task(teacher, student, float(gold["lr"]))
    frozen = make_frozen(golden, teacher, seed, gold["label"])
    before = make_state(golden, task, student, seed + 1)
    device = jax.devices()[:1]
    program, order = (
        train_program(task, device),
        np.arange(len(gold["label"]), dtype=np.int32)[None, None],
    )
    state, shared_frozen = (replicated(tree, device) for tree in (before, frozen))
    program.options = OPTIMISED if student == "MobileNetV2" else FAST
    states = []
    for _ in gold["losses"]:
        state, _ = program(state, shared_frozen, order, 0, 1)
        states.append(
            jax.tree.map(lambda leaf: np.array(leaf[0]), state)
        )  # a copy: the next step takes the state
    return Steps(
        gold, student, task, frozen, before, states[0], states[-1], [each.sums for each in states]
    )


def by_torch_name(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Parameters, or anything of their structure, by the names of the recording."""
    names = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    prefix = {"student": "backbone", "method": "proj_head"}
    return {
        ".".join([prefix[place], *path, names[leaf]]): np.asarray(value)
        for (place, *path, leaf), value in flatten_dict(params).items()
    }


def first_gradients(steps: Steps) -> dict[str, np.ndarray]:
    """The optimizer's memory after one step holds the gradient and the weight decay."""
    memory = by_torch_name(optax.tree_utils.tree_get(steps.first.opt_state, "trace"))
    return {
        name: memory[name] - WEIGHT_DECAY * value
        for name, value in by_torch_name(steps.before.params).items()
    }


def recorded(gold: dict[str, np.ndarray], kind: str) -> dict[str, tuple[float, float]]:
    """{name: (value, tolerance)}."""
    return {
        key.removeprefix(f"{kind}/"): (value, gold[f"{kind}_tol/{key.removeprefix(f'{kind}/')}"])
        for key, value in gold.items()
        if key.startswith(f"{kind}/")
    }


def beyond(
    actual: dict[str, np.ndarray], expected: dict[str, tuple[float, float]]
) -> dict[str, tuple[float, ...]]:
    """Those whose norm is off by more than the tolerance."""
    norms = {name: np.linalg.norm(np.float64(actual[name])) for name in expected}
    return {
        name: (norms[name], value, tolerance)
        for name, (value, tolerance) in expected.items()
        if not abs(norms[name] - value) <= tolerance
    }


def test_losses_of_every_step(steps):
    names = ("ce", "kd", "tf", "ss", "loss")
    for losses, expected, tolerance in zip(
        steps.losses, steps.gold["losses"], steps.gold["losses_tol"], strict=True
    ):
        np.testing.assert_array_less(np.abs([losses[name] for name in names] - expected), tolerance)


def test_first_gradients(steps):
    expected = recorded(steps.gold, "grad0_l2")
    assert {"proj_head.0.weight", "proj_head.2.bias"} < set(expected)
    assert not beyond(first_gradients(steps), expected)


def test_parameters_after_the_last_step(steps):
    expected, actual = recorded(steps.gold, "param_l2"), by_torch_name(steps.after.params)
    assert set(expected) == set(actual)
    assert not beyond(actual, expected)


def test_the_tolerances_would_notice_a_lost_step(steps):
    expected = recorded(steps.gold, "param_l2")
    for state in (steps.before, steps.first):
        assert beyond(by_torch_name(state.params), expected)


def test_evaluation_after_the_last_step(steps):
    variables = {"params": steps.after.params["student"], "batch_stats": steps.after.batch_stats}
    logits = evaluated(steps.task.student, variables, steps)
    assert (
        np.abs(logits - steps.gold["eval_logits_after"]).max()
        <= steps.gold["eval_logits_after_tol"]
    )


def evaluated(network: Any, variables: dict[str, Any], steps: Steps) -> np.ndarray:
    """Logits of the first eight rows, in evaluation mode."""
    image = jax.vmap(four_views)(steps.frozen.image)
    return jax.jit(partial(forward, network), compiler_options=FAST)(variables, image).logits[:8]


def test_the_teacher_is_the_recorded_one(steps):
    assert_near(
        evaluated(steps.task.teacher, steps.frozen.teacher, steps),
        steps.gold["teacher_logits"],
        1e-4,
    )


def test_the_student_starts_as_the_recorded_one(steps):
    network = MODELS[steps.student](num_classes=100)
    variables = {"params": steps.before.params["student"], "batch_stats": steps.before.batch_stats}
    image = jax.vmap(four_views)(steps.frozen.image).reshape(-1, 32, 32, 3)
    train = jax.jit(
        lambda variables, image: network.apply(
            variables, image, train=True, mutable=["batch_stats"]
        ),
        compiler_options=FAST,
    )
    assert_near(train(variables, image)[0].logits[:8], steps.gold["student_logits0"], 1e-4)
