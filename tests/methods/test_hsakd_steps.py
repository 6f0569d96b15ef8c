"""Our step program against the SGD steps that HSAKD and HSSAKD took, from the same weights."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from golden import Golden, assert_near
from recorded import by_name, first_gradients, is_recorded, make_task, take_steps

from sskd_jax.engine.step import initial_state
from sskd_jax.engine.task import Frozen, Task, TrainState
from sskd_jax.exchange import torch_bridge
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS
from sskd_jax.types import Params

WEIGHT_DECAY = 5e-4
PARTS = {"": "backbone.", "_branches": "auxiliary_classifier."}
STUDENT = "step_hsakd_wrn_40_2_wrn_16_2.npz"
STAGES = "step_hsakd_stages_wrn_16_2.npz"


class Case(NamedTuple):
    """A stage whose steps were recorded.

    Attributes:
      method, stage: which one.
      networks: by net, its architecture, the seed of its weights, what the names of its
        parameters begin with there, and those of its predictions.
      losses: the columns of the recorded losses by name.
    """

    method: str
    stage: str
    networks: Mapping[str, tuple[str, int, str, str]]
    losses: Mapping[str, list[int]]


CASES = {
    "student": Case(
        "hsakd",
        "student",
        {"student": ("wrn_16_2", 1, "", "student"), "teacher": ("wrn_40_2", 0, "", "teacher")},
        {"ce": [0], "kd": [1], "joint_kd": [2, 3, 4], "loss": [5]},
    ),
    "joint": Case(
        "hsakd_joint",
        "teacher",
        {"teacher": ("wrn_16_2", 1, "", "net")},
        {"ce": [0], "joint_ce": [1, 2, 3], "loss": [4]},
    ),
    # The recorded total has a cross-entropy, too, which is constant.
    "frozen": Case(
        "hsakd",
        "branches",
        {"teacher": ("wrn_16_2", 1, "", "net")},
        {"joint_ce": [1, 2, 3], "loss": [1, 2, 3]},
    ),
    "online": Case(
        "hssakd",
        "student",
        {"student": ("wrn_16_2", 1, "net1.", "net0"), "peer": ("wrn_16_2", 2, "net2.", "net1")},
        {
            "ce": [0, 1],
            "joint_ce": [2, 3, 4, 5, 6, 7],
            "kd": [8, 9],
            "joint_kd": [10, 11, 12, 13, 14, 15],
            "loss": [16],
        },
    ),
}


class Steps(NamedTuple):
    """What was recorded, and the state before and after our steps."""

    case: Case
    gold: dict[str, np.ndarray]
    task: Task
    image: np.ndarray
    variables: Params
    before: TrainState
    states: list[TrainState]


def recorded_variables(golden: Golden, specs: dict, case: Case) -> Params:
    """{"params", "batch_stats"} of all nets, read as from a file of HSAKD's."""
    found = {}
    for net, (model, seed, *_) in case.networks.items():
        entries = specs[model]["state_dict"]
        state = {name: golden.fill(name, shape, seed) for name, shape in entries}
        found[net] = torch_bridge.from_state_dict(model, state)
        found[f"{net}_branches"] = torch_bridge.from_state_dict(f"{model}.branches", state)
    return found


def task_of(case: Case, rate: float) -> Task:
    stage = METHODS[case.method](temperature=3.0)[case.stage]
    modules = {}
    for net, (model, *_) in case.networks.items():
        modules[net] = MODELS[model](num_classes=100)
        modules[f"{net}_branches"] = modules[net].branches
    return make_task(
        stage,
        modules,
        dict.fromkeys(stage.terms, 1.0),
        num_classes=100,
        learning_rate=rate,
        momentum=0.9,
        weight_decay=WEIGHT_DECAY,
        nesterov=True,
    )


def recording(golden: Golden, name: str) -> dict[str, np.ndarray]:
    """The arrays of a case in one form: norms as their names and their values."""
    if name != "student":
        return golden.under(STAGES, name)
    gold = golden.arrays(STUDENT)
    for kind in ("grad0_l2", "param_l2"):
        names = [key.partition("/")[2] for key in gold if key.startswith(f"{kind}/")]
        gold[f"{kind}/names"] = np.array(names)
        gold[f"{kind}/values"] = np.array([gold[f"{kind}/{key}"] for key in names])
    return gold


SLOW = ("student", "joint", "online")  # over 20 s on a busy machine
PARAMS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES]


@pytest.fixture(scope="module", params=PARAMS)
def steps(request, shared) -> Steps:
    case, golden = CASES[request.param], Golden(shared / "golden")
    specs = json.loads((golden.folder / "hsakd.json").read_text())
    gold = recording(golden, request.param)
    task = task_of(case, float(gold["lr"]))
    variables = recorded_variables(golden, specs, case)
    learned = {name: own for name, own in variables.items() if task.stage.nets[name].learns}
    still = {name: own for name, own in variables.items() if name not in learned}
    image, label = golden.images(3, len(gold["label"])), gold["label"].astype(np.int32)
    frozen = Frozen(np.zeros(2, np.uint32), image, label, still)
    before = initial_state(task, jax.random.PRNGKey(0), frozen, learned)
    states = take_steps(task, frozen, before, len(gold["losses"]))
    return Steps(case, gold, task, image, variables, before, states)


def by_torch_name(steps: Steps, tree: Params) -> dict[str, np.ndarray]:
    """Leaves by net, of parameters or statistics, by the names of the recording."""
    prefixes = {
        f"{net}{part}": prefix + own
        for net, (_, _, prefix, _) in steps.case.networks.items()
        for part, own in PARTS.items()
    }

    def torch_name(name: str) -> str:
        net, _, rest = name.partition(".")
        return prefixes[net] + rest

    return by_name(tree, torch_name)


def unlike(steps: Steps, kind: str, tree: Params) -> list[str]:
    """The recorded norms from which those of the tree differ."""
    actual = by_torch_name(steps, tree)
    expected = zip(steps.gold[f"{kind}/names"], steps.gold[f"{kind}/values"], strict=True)
    return [
        name
        for name, value in expected
        if name in actual and not is_recorded(np.linalg.norm(actual[name]), value)
    ]


def test_losses_of_every_step(steps):
    for state, row in zip(steps.states, steps.gold["losses"], strict=True):
        for name, columns in steps.case.losses.items():
            assert is_recorded(state.sums[name], row[columns].sum()), name


def test_first_gradients(steps):
    gradients = first_gradients(steps.before, steps.states[0], WEIGHT_DECAY)
    assert set(steps.gold["grad0_l2/names"]) == set(by_torch_name(steps, gradients))
    assert not unlike(steps, "grad0_l2", gradients)


def test_parameters_and_statistics_after_the_last_step(steps):
    """Those of the states before it would not pass."""
    learned = set(by_torch_name(steps, steps.states[-1].params))
    assert learned <= set(steps.gold["param_l2/names"])
    assert not unlike(steps, "param_l2", steps.states[-1].params)
    for state in (steps.before, steps.states[0]):
        assert unlike(steps, "param_l2", state.params)
    if "stat_l2/names" in steps.gold:  # none were recorded of the student's steps
        assert not unlike(steps, "stat_l2", steps.states[-1].batch_stats)
        assert unlike(steps, "stat_l2", steps.before.batch_stats)


def predicted(steps: Steps, net: str, variables: Params, train: set[str]) -> list[np.ndarray]:
    """Logits of the first eight of all turned rows, and those of every branch for four of them.

    The nets in `train` normalise by all rows.
    """
    image = steps.image
    rows = np.stack([np.rot90(image, k, (1, 2)) for k in range(4)], 1).reshape(-1, *image.shape[1:])
    modules, branches = steps.task.modules, f"{net}_branches"

    def apply(name: str, variables: Params, x: Any) -> Any:
        if name not in train:
            return modules[name].apply(variables[name], x)
        return modules[name].apply(variables[name], x, train=True, mutable=["batch_stats"])[0]

    def both(variables: Params, rows: np.ndarray) -> Any:
        outputs = apply(net, variables, rows)
        joint = apply(branches, variables, outputs.maps)
        return [outputs.logits[:8], *(logits[:4] for logits in joint)]

    given = {name: variables[name] for name in (net, branches)}
    return jax.jit(both)(given, rows)


def variables_of(steps: Steps, state: TrainState) -> Params:
    """Of all nets; those that are frozen stay as they were."""
    return steps.variables | state.variables


def test_they_begin_with_the_recorded_predictions(steps):
    learning = set(steps.before.params)
    for net, (*_, key) in steps.case.networks.items():
        found = predicted(steps, net, steps.variables, learning)
        first = "0" if f"{net}_branches" in learning else ""
        names = [f"logits{first}", *(f"aux{first and '0_'}{i}" for i in range(3))]
        for actual, name in zip(found, names, strict=True):
            assert_near(actual, steps.gold[f"{key}_{name}"], 1e-4)


def test_they_end_with_the_recorded_predictions(steps):
    variables = variables_of(steps, steps.states[-1])
    for net, (*_, key) in steps.case.networks.items():
        if f"{net}_branches" not in steps.before.params:
            continue
        prefix = f"{key}_" if f"{key}_eval_logits_after" in steps.gold else ""
        found = predicted(steps, net, variables, set())
        names = ["eval_logits_after", *(f"eval_aux_after{i}" for i in range(3))]
        for actual, name in zip(found, names, strict=True):
            difference = np.abs(actual - steps.gold[prefix + name]).max()
            assert difference <= steps.gold[f"{prefix}{name}_tol"], name
