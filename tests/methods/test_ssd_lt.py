"""SSD-LT against values recorded from its released code: terms, queue, order and whole steps."""

import json
import random
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from golden import Golden, assert_near
from pairs import arrays, configured, given_batch, given_nets, outputs

from configs.methods import METHODS as ENTRIES
from sskd_jax.engine.optim import milestone_schedule
from sskd_jax.engine.task import Frozen
from sskd_jax.losses import cross_entropy, normalized
from sskd_jax.methods import METHODS, ssd_lt
from sskd_jax.methods.long_tail import Scales, balanced, by_frequency, class_balanced, groups
from sskd_jax.models import MODELS
from sskd_jax.types import Array, Method, UserError
from sskd_jax.views import coloured, distorted, once

FILE = "ssd_lt.npz"
RESNET = MODELS["resnet20"](num_classes=10)
IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
EMBED = jax.ShapeDtypeStruct((1, 64), jnp.float32)
LOGITS = jax.ShapeDtypeStruct((1, 10), jnp.float32)


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared / "golden")


@pytest.fixture(scope="module")
def names(shared) -> dict:
    return json.loads((shared / "golden/ssd_lt.json").read_text())


# Terms.


def queue_of(gold: dict[str, np.ndarray], label: np.ndarray) -> ssd_lt.Memory:
    queue = {"keys": gold["in/queue"], "label": label, "place": gold["in/queue_ptr"]}
    return jax.tree.map(jnp.asarray, queue)


@pytest.mark.parametrize("fresh", [False, True])
def test_the_contrastive_term(golden, fresh):
    """`fresh`: all keys of the queue have the label 0, so rows of that class lack negatives."""
    gold = golden.under(FILE, "stage1")
    expected = golden.under(FILE, "stage1_fresh") if fresh else gold
    label = gold["in/label"].astype(np.int32)
    queue = queue_of(gold, 0 * gold["in/queue_label"] if fresh else gold["in/queue_label"])

    def loss(query: Array) -> Array:
        return ssd_lt.contrastive_loss(query, gold["in/k"], label, queue, temperature=0.2)

    value, gradient = jax.value_and_grad(loss)(gold["in/q"])
    assert_near(value, expected["con"], 1e-4)
    assert_near(gradient, expected["grad/q"], 1e-4)
    if not fresh:
        raw = jax.grad(lambda rows: loss(normalized(rows)))(gold["in/q_raw"])
        assert_near(raw, gold["grad/q_raw"], 1e-4)


def test_an_empty_queue_has_no_negatives():
    query, label = normalized(jnp.ones((3, 4))), jnp.array([0, 1, 2])
    queue = ssd_lt.empty_queue(jax.random.key(0), 8, 4)
    value, gradient = jax.value_and_grad(ssd_lt.contrastive_loss)(query, query, label, queue, 0.2)
    assert value == 0 and not gradient.any()


def test_the_queue(golden):
    first, gold = golden.under(FILE, "stage1"), golden.under(FILE, "queue")
    queue = queue_of(first, first["in/queue_label"])
    for number, (key, label) in enumerate(
        [(first["in/k"], first["in/label"]), (gold["in/k2"], gold["in/label2"])], 1
    ):
        queue = ssd_lt.enqueued(queue, key, label.astype(np.int32))
        np.testing.assert_array_equal(queue["label"], gold[f"after{number}/queue_label"])
    # Keys and place were recorded after both alone.
    np.testing.assert_array_equal(queue["keys"], gold["after2/queue"])
    assert queue["place"] == gold["after2/ptr"]


def test_a_queue_shorter_than_a_batch_is_a_mistake():
    queue = ssd_lt.empty_queue(jax.random.key(0), 8, 4)
    with pytest.raises(UserError, match="the queue holds 8 keys, fewer than the 9 images"):
        ssd_lt.enqueued(queue, jnp.ones((9, 4)), jnp.zeros(9, jnp.int32))


def test_scales_are_learned_alone(golden):
    gold = golden.under(FILE, "lws")
    label = gold["in/label"].astype(np.int32)

    def loss(scale: Array, feature: Array) -> tuple[Array, Array]:
        logits = feature @ gold["in/weight"].T + gold["in/bias"][None]
        logits = Scales().apply({"params": {"scale": scale}}, logits)
        return cross_entropy(logits, label), logits

    found = jax.value_and_grad(loss, (0, 1), has_aux=True)(gold["in/scale"], gold["in/feature"])
    (value, logits), gradients = found
    assert_near(logits, gold["logits"], 1e-4)
    assert_near(value, gold["loss"], 1e-4)
    for name, gradient in zip(("scale", "feature"), gradients, strict=True):
        assert_near(gradient, gold[f"grad/{name}"], 1e-4)


def test_the_terms_of_the_student(golden):
    gold = golden.under(FILE, "stage3")
    stage = configured("ssd_lt")["student"]
    batch = given_batch(gold["in/label"].astype(np.int32))

    def loss(hard: Array, soft: Array) -> tuple[Array, dict[str, Array]]:
        given = {"student": outputs(soft), "teacher": outputs(gold["in/teacher"]), "hard": hard}
        nets = given_nets(**given, scales=lambda logits: logits)
        terms = stage.loss(nets, batch).terms
        return sum(terms.values()), terms

    found = jax.value_and_grad(loss, (0, 1), has_aux=True)(gold["in/hard"], gold["in/soft"])
    (value, terms), gradients = found
    assert_near(value, gold["loss"], 1e-4)
    assert_near(terms["ce"], gold["ce"], 1e-4)
    assert_near(terms["kd"], gold["kd"], 1e-4)
    for name, gradient in zip(("hard", "soft"), gradients, strict=True):
        assert_near(gradient, gold[f"grad/{name}"], 1e-4)


@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_what_each_stage_sees(jitter):
    """The colours of all views change with `jitter`; keys have a view of their own."""
    method = METHODS["ssd_lt"](**ENTRIES["ssd_lt"].numbers | {"jitter": jitter})
    views, rows, logits = [], arrays(4, 128), outputs(arrays(4, 10))
    nets = given_nets(student=logits, teacher=logits, key=logits, projector=rows)
    nets |= given_nets(key_projector=rows, hard=logits.logits, scales=lambda scaled: scaled)
    memory = ssd_lt.empty_queue(jax.random.key(0), 8, 128)
    batch = given_batch(np.zeros(4, np.int32), memory=memory)._replace(see=views.append)
    for stage in method.values():
        stage.loss(nets, batch)
    told = [(getattr(view, "func", view), *getattr(view, "args", ())) for view in views]
    own = (coloured, jitter) if jitter else (once,)
    assert told == [own, (distorted,), own, own]


def test_the_schedule(golden):
    expected = golden.arrays(FILE)["schedule/cosine_lr.1_epochs20"]
    schedule = milestone_schedule(0.1, (), 0.1, 3, epochs=20, cosine=True)
    rates = np.array([schedule(step) for step in range(60)]).reshape(20, 3)
    np.testing.assert_allclose(rates, np.repeat(expected[:, None], 3, 1), rtol=1e-5)


# Order and scores.


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_balanced_order_is_the_recorded_one(golden, epoch):
    gold = golden.under(FILE, "sampler")
    random.seed(0)
    order = class_balanced(gold[f"epoch{epoch}/initial"], gold["label"], random.shuffle)
    np.testing.assert_array_equal(order, gold[f"epoch{epoch}/order"])


class Labelled:
    """Images as an order sees them."""

    def __init__(self, label: np.ndarray):
        self.label, self.size = label, len(label)


def test_the_balanced_order_visits_all_classes_alike():
    images = Labelled(np.repeat(np.arange(4), (40, 13, 6, 1)))
    order = balanced(np.random.default_rng(0), images, 0)
    label = images.label[order]
    assert len(order) == images.size
    np.testing.assert_array_equal(label[::2], label[1::2])
    visits = label[::2]
    for start in range(0, len(visits) - 4, 4):
        assert set(visits[start : start + 4]) == {0, 1, 2, 3}
    for kind, count in ((0, 40), (1, 13), (2, 6)):
        own = order[label == kind]
        for start in range(0, len(own) - count + 1, count):
            assert len(set(own[start : start + count])) == count
    assert not np.array_equal(order, balanced(np.random.default_rng(1), images, 0))


def test_accuracy_of_frequent_and_of_rare_classes(golden):
    gold = golden.under(FILE, "groups")
    logits = np.eye(8, dtype=np.float32)[gold["pred"]]
    label = gold["label"].astype(np.int32)
    batch = given_batch(label, counts=lambda: gold["train_count"])
    scores = by_frequency(logits, batch)
    assert list(scores) == ["top1", "top5", "loss", "many", "medium", "few", "confidence", "ece"]
    found = [
        np.sum(score * rows) / rows.sum()
        for score, rows in (scores[name] for name in ("many", "medium", "few"))
    ]
    np.testing.assert_allclose(found, gold["many_medium_few"], rtol=1e-5)
    np.testing.assert_allclose(scores["top1"].mean(), gold["overall"], rtol=1e-5)
    np.testing.assert_allclose(scores["confidence"], np.e / (np.e + 7), rtol=1e-5)


def test_a_group_without_classes_is_left_out_and_a_class_without_images_is_in_none():
    assert list(groups(np.array([101, 500]))) == ["many"]
    found = groups(np.array([100, 20, 19, 1, 0]))
    assert {name: list(members) for name, members in found.items()} == {
        "medium": [True, True, False, False, False],
        "few": [False, False, True, True, False],
    }


# Whole steps.


def stage1_name(name: str) -> str:
    """The recording's name of a parameter in stage I."""
    for net, theirs in (("student", "encoder_q"), ("key", "encoder_k")):
        name = name.replace(f"{net}.fc.", "classifier.") if net == "student" else name
        name = name.replace(f"{net}.", f"{theirs}.") if name.startswith(f"{net}.") else name
    for net, theirs in (("projector", "q_fc"), ("key_projector", "k_fc")):
        if name.startswith(f"{net}."):
            name = name.replace(f"{net}.", f"{theirs}.").replace(".linear", "")
    return name


def both_views(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Images of six channels, of which each view sees three."""
    return np.concatenate([query, key], -1)


@pytest.mark.slow
def test_steps_of_stage_one(golden, names, monkeypatch):
    gold, numbers = golden.under(FILE, "step1"), names["step1"]
    label = golden.arrays(FILE)["step/label"].astype(np.int32)
    monkeypatch.setattr(ssd_lt, "distorted", lambda optics, key, image: image[None, ..., 3:])
    query = lambda optics, key, image: image[None, ..., :3]  # noqa: E731
    stage = ssd_lt.features(query, 128, 64, numbers["key_momentum"], numbers["temperature"])
    task = recorded.make_task(
        stage,
        {"student": RESNET, "key": RESNET},
        {"ce": 1.0, "con": 1.0},
        learning_rate=numbers["lr"],
        momentum=numbers["momentum"],
        weight_decay=numbers["weight_decay"],
    )
    inputs = {"student": [IMAGE], "key": [IMAGE], "projector": [EMBED], "key_projector": [EMBED]}
    shapes = recorded.shapes_of(task, inputs)
    variables = recorded.filled(golden, shapes, unprefixed(stage1_name))
    # Nothing classifies by the key's features.
    variables["key"]["params"]["fc"] = variables["student"]["params"]["fc"]
    # The reference averages before a step, and we do after it; so ours begins with the first
    # average.
    for net, leader in (("key", "student"), ("key_projector", "projector")):
        variables[net]["params"] = jax.tree.map(
            lambda own, other: 0.99 * own + (1 - 0.99) * other,
            variables[net]["params"],
            variables[leader]["params"],
        )
    memory = queue_of(gold, gold["in/queue_label"])
    before = recorded.first_state(task, variables, memory, ["accuracy"])
    image = both_views(golden.images(0, 16), golden.images(1, 16))
    frozen = Frozen(np.zeros(2, np.uint32), image, label, {})
    first, second = recorded.take_steps(task, frozen, before, 2)

    losses = [[state.sums[name] for name in ("ce", "con", "loss")] for state in (first, second)]
    recorded.assert_recorded(losses, gold["losses"])
    np.testing.assert_allclose(first.memory["keys"][48:], gold["key0"], atol=1e-7)
    np.testing.assert_array_equal(second.memory["label"], gold["after/queue_label"])
    assert second.memory["place"] == gold["after/queue_ptr"]
    gradients = recorded.first_gradients(before, first, numbers["weight_decay"])
    ours = partial(recorded.norms, rename=stage1_name, names=numbers["names"])
    recorded.assert_recorded(ours(gradients), gold["grad0_l2"])
    recorded.assert_recorded(ours(second.params), gold["param_l2"])
    change = jax.tree.map(np.subtract, second.params, before.params)
    recorded.assert_recorded(ours(change), gold["delta_l2"])
    keys = recorded.norms(first.params, stage1_name, numbers["key_names"])
    recorded.assert_recorded(keys, gold["key_param_l2"])
    statistics = recorded.norms(second.batch_stats, stage1_name, numbers["bn_names"])
    recorded.assert_recorded(statistics, gold["bn_l2"])


def unprefixed(rename: recorded.Rename) -> recorded.Rename:
    """The same for names such as "student.params.conv1.weight"."""
    return lambda name: rename(name.replace(".params.", ".").replace(".batch_stats.", "."))


def stage2_name(name: str) -> str:
    name = name.replace("student.fc.", "classifier.fc.").replace("student.", "encoder.")
    return name.replace("scales.weight", "classifier.scales")


def method_of(teacher_trains: bool, kd_temperature: float = 1.0) -> Method:
    return ssd_lt.ssd_lt(
        width=128,
        queue_length=64,
        key_momentum=0.99,
        contrast_temperature=0.2,
        kd_temperature=kd_temperature,
        jitter=0.0,
        teacher_trains=teacher_trains,
    )


@pytest.mark.parametrize("teacher_trains", [False, True], ids=["eval", "train"])
def test_steps_of_stage_two(golden, names, teacher_trains):
    mode = "train" if teacher_trains else "eval"
    gold, numbers = golden.under(FILE, f"step2_{mode}"), names["step2"]
    label = golden.arrays(FILE)["step/label"].astype(np.int32)
    stage = method_of(teacher_trains)["scales"]
    task = recorded.make_task(
        stage,
        {"student": RESNET},
        {"ce": 1.0},
        learning_rate=numbers["lr"],
        momentum=numbers["momentum"],
        weight_decay=numbers["weight_decay"],
    )
    shapes = recorded.shapes_of(task, {"student": [IMAGE], "scales": [LOGITS]})
    variables = recorded.filled(golden, shapes, unprefixed(stage2_name))
    nets = {} if teacher_trains else {"student": variables.pop("student")}
    if teacher_trains:  # what the loss does not depend on stays as it is
        task = task._replace(reached={"student": False, "scales": True})
    before = recorded.first_state(task, variables, {}, ["accuracy"])
    frozen = Frozen(np.zeros(2, np.uint32), golden.images(0, 16), label, nets)
    states = recorded.take_steps(task, frozen, before, 2)

    recorded.assert_recorded([state.sums["loss"] for state in states], gold["losses"])
    recorded.assert_recorded([state.params["scales"]["scale"] for state in states], gold["scales"])
    if teacher_trains:
        jax.tree.map(
            np.testing.assert_array_equal, states[1].params["student"], before.params["student"]
        )
        statistics = {"student": states[1].batch_stats["student"]}
        found = recorded.norms(statistics, stage2_name, numbers["bn_names"])
        recorded.assert_recorded(found, gold["bn_l2"])


def stage3_name(name: str) -> str:
    """Our student's own classifier is their `classifier_kd`."""
    for ours, theirs in {
        "student.fc.": "classifier_kd.",
        "student.": "encoder_q.",
        "hard.to_target.linear.": "classifier.",
        "teacher.fc.": "classifier_t.fc.",
        "teacher.": "encoder_t.",
        "scales.weight": "classifier_t.scales",
    }.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


@pytest.mark.slow
@pytest.mark.parametrize("teacher_trains", [False, True], ids=["eval", "train"])
def test_steps_of_stage_three(golden, names, teacher_trains):
    mode = "train" if teacher_trains else "eval"
    gold, numbers = golden.under(FILE, f"step3_{mode}"), names["step3"]
    label = golden.arrays(FILE)["step/label"].astype(np.int32)
    task = recorded.make_task(
        method_of(teacher_trains, numbers["temperature"])["student"],
        {"student": RESNET, "teacher": RESNET},
        {"ce": 1.0, "kd": 1.0},
        learning_rate=numbers["lr"],
        momentum=numbers["momentum"],
        weight_decay=numbers["weight_decay"],
    )
    inputs = {
        "student": [IMAGE],
        "teacher": [IMAGE],
        "hard": [EMBED, LOGITS],
        "scales": [LOGITS],
    }
    variables = recorded.filled(golden, recorded.shapes_of(task, inputs), unprefixed(stage3_name))
    still = ("scales",) if teacher_trains else ("scales", "teacher")
    nets = {name: variables.pop(name) for name in still}
    if teacher_trains:
        task = task._replace(reached={"student": True, "hard": True, "teacher": False})
    before = recorded.first_state(task, variables, {}, ["accuracy", "hard_accuracy"])
    frozen = Frozen(np.zeros(2, np.uint32), golden.images(0, 16), label, nets)
    first, second = recorded.take_steps(task, frozen, before, 2)

    losses = [[state.sums[name] for name in ("ce", "kd", "loss")] for state in (first, second)]
    recorded.assert_recorded(losses, gold["losses"])
    ours = partial(recorded.norms, rename=stage3_name, names=numbers["names"])
    gradients = recorded.first_gradients(before, first, numbers["weight_decay"])
    recorded.assert_recorded(ours(gradients), gold["grad0_l2"])
    recorded.assert_recorded(ours(second.params), gold["param_l2"])
    change = jax.tree.map(np.subtract, second.params, before.params)
    recorded.assert_recorded(ours(change), gold["delta_l2"])


def test_the_flag_decides_how_the_teacher_normalises():
    numbers = {"width": 8, "queue_length": 64, "key_momentum": 0.9, "jitter": 0.4}
    temperatures = {"contrast_temperature": 0.2, "kd_temperature": 2.0}
    frozen, trained = (
        ssd_lt.ssd_lt(**numbers, **temperatures, teacher_trains=trains) for trains in (False, True)
    )
    for method, moves in ((frozen, False), (trained, True)):
        assert method["student"].nets["teacher"].learns == moves
        assert method["scales"].nets["student"].learns == moves


def test_which_classifier_is_scored():
    """The network's own, which imitates the teacher; that of the labels stands beside it."""
    right = np.eye(4, dtype=np.float32)
    stage = configured("ssd_lt")["student"]
    nets = given_nets(student=outputs(right), hard=np.roll(right, 1, 1))
    batch = given_batch(np.arange(4), counts=lambda: np.array([500, 50, 5, 5]))
    scores = stage.scores(nets, batch)
    assert scores["top1"].all() and not scores["hard_top1"].any()
