"""CoCa against values recorded from its released code: network, views, terms and whole steps."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from golden import Golden, assert_near

from configs.methods import METHODS as ENTRIES
from sskd_jax.engine.task import Frozen
from sskd_jax.losses import cross_entropy
from sskd_jax.methods import METHODS, coca, der, stream
from sskd_jax.methods.stream import cross_entropy_over, logit_distance
from sskd_jax.models import MODELS
from sskd_jax.types import Array

FILE = "coca.npz"
NUMBERS = {"task_classes": 2, "task_epochs": 1, "buffer_size": 24, "replay_size": 16}
TERMS = ("ce", "distil", "replay", "supcon", "rot")
ALL = np.ones(16, bool)


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared / "golden")


@pytest.fixture(scope="module")
def names(shared) -> dict:
    return json.loads((shared / "golden/coca.json").read_text())


def torch_name(name: str) -> str:
    """The recording's name of a parameter."""
    name = name.removeprefix("student.").replace(".linear.", ".")
    for ours, theirs in (("invariant.", "inv_head."), ("rotation.", "eq_head.")):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def filled(golden: Golden, shapes: dict) -> dict:
    def rename(name: str) -> str:
        return torch_name(name.replace(".params.", ".").replace(".batch_stats.", "."))

    return recorded.filled(golden, shapes, rename)


# The network.


def test_the_network(golden, names):
    gold = golden.under(FILE, "net")
    modules = {
        "student": MODELS["ResNet18"](num_classes=10),
        "rotation": coca.Head(16),
        "invariant": coca.Head(64),
    }
    image, embed = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 32, 32, 3), (1, 512))
    )
    shapes = {
        name: jax.eval_shape(module.init, jax.random.key(0), image if name == "student" else embed)
        for name, module in modules.items()
    }
    sizes = [leaf.size for name in shapes for leaf in jax.tree.leaves(shapes[name]["params"])]
    assert sum(sizes) == names["resnet18_16"]["num_params"]
    variables = filled(golden, shapes)

    @jax.jit
    def outputs(image: Array) -> tuple[Array, ...]:
        student = modules["student"].apply(variables["student"], image)
        heads = [modules[name].apply(variables[name], student.embed) for name in list(modules)[1:]]
        return student.logits, student.embed, *heads

    logits, embed, rotation, invariant = outputs(golden.images(0, 8))
    assert_near(logits, gold["eval_logits"], 1e-4)
    assert_near(rotation, gold["eval_eq"], 1e-4)
    assert_near(coca.normalized(invariant), gold["eval_inv"], 1e-4)
    assert_near(coca.normalized(embed), gold["eval_feature_unit"], 1e-4)


# What it sees.


def test_a_part_is_enlarged_and_turned(golden):
    gold = golden.under(FILE, "transform/cifar")
    found = jax.vmap(coca.spun)(golden.images(7, 4), gold["corner"], gold["rotation"])
    np.testing.assert_allclose(found, gold["out"], atol=1e-5)


@pytest.mark.parametrize("way", [5, 10, 3])
def test_images_are_stretched_as_on_tiny_imagenet(way, golden):
    gold = golden.under(FILE, "transform/tiny")
    (image,), corner = golden.images(8, 1, 64), np.array([5, 9])
    expected = gold.get(f"s{way}", gold["s3_crop52_at_5_9"])
    found = coca.spun(image, corner, way, stretched=True)
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)
    turned = coca.spun(image, corner, 12 + way % 4, stretched=True)
    np.testing.assert_array_equal(turned, np.rot90(image, -way))


@pytest.mark.parametrize(("count", "ways"), [(32, 4), (30, 4), (40, 16)])
def test_turns_are_balanced(count, ways):
    corner, way = coca.random_turns(jax.random.key(0), count, 32, ways)
    assert np.ptp(np.bincount(way, minlength=ways)) <= 1 and way.max() < ways
    assert corner.min() >= 0 and corner.max() == 6
    assert not np.array_equal(way, np.arange(count) % ways)


def test_the_network_tells_as_many_ways_as_there_are():
    for stretched, ways in ((False, 4), (True, 16)):
        method = coca.coca(**ENTRIES["coca"].numbers | {"stretched": stretched})
        assert method["student"].nets["rotation"].module.features == ways


# Terms.


def test_logits_of_similar_images(golden):
    gold = golden.under(FILE, "terms")
    found = coca.ensembled(gold["in/v1"], gold["in/z1"], ALL, omega=0.1)
    assert_near(found, gold["S"], 1e-4)
    assert_near(0.99 * gold["in/h"] + 0.01 * found, gold["target"], 1e-4)


def test_rows_that_do_not_count_change_no_others(golden):
    """Whatever they hold; and nothing is infinite where none counts."""
    gold, counts = golden.under(FILE, "terms"), np.arange(16) < 10
    alone = coca.ensembled(gold["in/v1"][:10], gold["in/z1"][:10], ALL[:10], omega=0.1)
    found = coca.ensembled(gold["in/v1"], gold["in/z1"], counts, omega=0.1)
    assert_near(found[:10], alone, 1e-5)
    nobody = coca.ensembled(gold["in/v1"], gold["in/z1"], 0 * ALL > 0, omega=0.1)
    assert np.isfinite(nobody).all()

    views, label = gold["in/vt"].reshape(2, 16, -1), gold["in/label"]
    contrast = partial(coca.supervised_contrast, temperature=0.07)
    alone = contrast(*views[:, :10], label[:10], ALL[:10])
    assert_near(contrast(*views, label, counts), alone, 1e-5)
    gradient = jax.grad(contrast)(*views, label, 0 * ALL > 0)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("boundaries", [True, False])
def test_the_terms(golden, boundaries):
    gold = golden.under(FILE, "terms")
    expected = gold if boundaries else gold | golden.under(FILE, "free")
    given = {
        name: jnp.asarray(gold[f"in/{name}"])
        for name in ("z", "z1", "z2", "v", "v1", "v2", "vt", "e")
    }
    label, label2 = (gold[f"in/{name}"].astype(np.int32) for name in ("label", "label2"))

    def terms(given: dict[str, Array]) -> dict[str, Array]:
        chosen, chosen2 = given["z"], given["z2"]
        if boundaries:
            own = stream.own_columns(label, 10, 2)
            assert {tuple(row) for row in np.asarray(own)} == {tuple(np.arange(10) // 2 == 2)}
            chosen = stream.among(chosen, own)
            chosen2 = stream.among(chosen2, np.arange(10)[None] < gold["seen_columns"][1])
        similar = jax.lax.stop_gradient(coca.ensembled(given["v1"], given["z1"], ALL, 0.1))
        target = 0.99 * gold["in/h"] + 0.01 * similar
        rows, labels = jnp.concatenate([given["v"], given["v2"]]), np.r_[label, label2]
        both = np.ones(32, bool)
        return {
            "ce": cross_entropy(chosen, label),
            "distil": logit_distance(given["z1"], target, ALL),
            "replay": cross_entropy_over(chosen2, label2, ALL),
            "supcon": coca.supervised_contrast(rows, given["vt"], labels, both, 0.07),
            "rot": cross_entropy(given["e"], gold["in/rotation"]),
        }

    found, gradients = terms(given), jax.jacrev(terms)(given)
    for name, value in found.items():
        assert_near(value, expected[name], 1e-4)
    weights = {"ce": 1, "distil": 0.2, "replay": 0.5, "supcon": 0.3, "rot": 0.3}
    total = sum(weights[name] * value for name, value in found.items())
    assert_near(total, expected["total"], 1e-4)
    recorded_gradients = [key for key in expected if key.startswith("grad/")]
    assert len(recorded_gradients) == 7
    for key in recorded_gradients:
        _, term, name = key.split("/")
        assert_near(gradients[term][name], expected[key], 1e-4)


def test_the_first_step_has_new_images_alone(golden):
    gold, first = golden.under(FILE, "terms"), golden.under(FILE, "first")
    counts = np.arange(32) < 16
    rows = np.concatenate([gold["in/v"], gold["in/v2"]])
    labels = np.r_[gold["in/label"], gold["in/label2"]]
    supcon = coca.supervised_contrast(rows, gold["in/vt"], labels, counts, 0.07)
    assert_near(supcon, first["supcon"], 1e-4)
    rot = cross_entropy(gold["in/e"][:16], first["rotation"])
    assert_near(rot, first["rot"], 1e-4)
    assert_near(first["ce"] + 0.3 * supcon + 0.3 * rot, first["total"], 1e-4)


# Whole steps.


def with_recorded_draws(monkeypatch, gold: dict[str, np.ndarray]) -> None:
    """The recorded images are drawn and turned, and the buffer keeps what it holds.

    Beside it stand the logits that it would get.
    """
    draws = iter([gold["in/draw1"], gold["in/draw2"]] * 2)  # a step is traced more than once
    monkeypatch.setattr(stream, "random_slots", lambda *_: jnp.asarray(next(draws)))
    turns = gold["in/corner"], gold["in/rotation"]
    monkeypatch.setattr(coca, "random_turns", lambda *_: tuple(map(jnp.asarray, turns)))
    for module in (coca, der):
        monkeypatch.setattr(
            module, "reservoir", lambda key, buffer, logits, batch: buffer | {"fresh": logits}
        )


CASES = {
    "step_coca": ("coca", {"boundaries": True}),
    "step_free": ("coca", {"boundaries": False}),
    "step_derpp": ("der", {"keep_logits": True, "replay_labels": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_steps(golden, names, monkeypatch, case):
    given, gold = golden.under(FILE, "step"), golden.under(FILE, case)
    method, more = CASES[case]
    if method == "coca":
        more |= {"omega": 0.1, "gamma": 0.01, "width": 64, "temperature": 0.07, "stretched": False}
    stage = METHODS[method](**NUMBERS, **more)["student"]
    weights = {"ce": 1, "distil": names[case]["alpha"], "replay": names[case]["beta"]}
    weights |= {"supcon": 0.3, "rot": 0.3}
    task = recorded.make_task(
        stage,
        {"student": MODELS["ResNet18w16"](num_classes=10)},
        weights,
        learning_rate=names[case]["lr"],
        momentum=0.0,
        weight_decay=0.0,
    )
    image, embed = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 32, 32, 3), (1, 128))
    )
    inputs = {name: [image if name == "student" else embed] for name in stage.nets}
    variables = filled(golden, recorded.shapes_of(task, inputs))
    memory = {
        "image": golden.images(1, 24),
        "label": given["in/store_label"].astype(np.int32),
        "logits": given["in/store_logits"],
        "seen": np.int32(24),
        "fresh": np.zeros((16, 10), np.float32),
    }
    with_recorded_draws(monkeypatch, given)
    before = recorded.first_state(task, variables, memory, ["accuracy"])
    label = given["in/label"].astype(np.int32)
    frozen = Frozen(np.zeros(2, np.uint32), golden.images(0, 16), label, {})
    first, second = recorded.take_steps(task, frozen, before, 2, optimised=True)

    terms = [*(name for name in TERMS if name in stage.terms), "loss"]
    losses = [[state.sums[name] for name in terms] for state in (first, second)]
    recorded.assert_recorded(losses, gold["losses"])
    recorded.assert_recorded(first.memory["fresh"], gold["stored_logits0"])
    # The heads' statistics are never read; the reference calls them where nobody asks.
    moving = names["step_derpp"]["bn_names"]
    statistics = {"student": second.batch_stats["student"]}
    found = recorded.norms(statistics, torch_name, moving)
    recorded.assert_recorded(found, gold["bn_l2"][: len(moving)])
    chosen = names["step_coca"]["names"]
    if method == "der":  # it never calls the heads, which stand after all others
        chosen = [name for name in chosen if "head" not in name]
    gradients = recorded.first_gradients(before, first, 0.0)
    norms = partial(recorded.norms, rename=torch_name, names=chosen)
    recorded.assert_recorded(norms(gradients), gold["grad0_l2"][: len(chosen)])
    recorded.assert_recorded(norms(second.params), gold["param_l2"][: len(chosen)])
    change = jax.tree.map(np.subtract, second.params, before.params)
    recorded.assert_recorded(norms(change), gold["delta_l2"][: len(chosen)])
