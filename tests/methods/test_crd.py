"""Contrastive distillation against the reference's values and numpy."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from pairs import arrays, check_at_ties, given_batch, given_nets, outputs

from sskd_jax.layers.heads import Linear
from sskd_jax.losses import normalized
from sskd_jax.methods.crd import (
    NETWORKS,
    Memory,
    Temperature,
    all_scores,
    contrast,
    contrastive_loss,
    crd,
    draw_negatives,
    first_memory,
    momentum_update,
    normaliser,
    scores,
)
from sskd_jax.settings import rule_of
from sskd_jax.types import Facts, Losses

LABEL = np.array([2, 0, 1, 0, 2, 2, 0, 1])
NUMBERS = dict(width=6, negative_count=9, temperature=0.07, momentum=0.5, kd_temperature=4.0)


@pytest.fixture
def gold(shared):
    return Golden(shared / "golden").under("losses.npz", "crd")


def recorded(gold) -> tuple[dict, dict]:
    """(parameters, memory before the step)."""
    params = {
        name: {
            "linear": {
                "kernel": gold[f"state/embed_{short}.linear.weight"].T,
                "bias": gold[f"state/embed_{short}.linear.bias"],
            }
        }
        for name, short in zip(NETWORKS, "st", strict=True)
    }
    return params, {
        "student": gold["state/contrast.memory_v1"],
        "teacher": gold["state/contrast.memory_v2"],
        "normaliser": np.zeros(2, np.float32),
    }


def anchors(params: dict, *embeds: Any) -> dict:
    """Unit vectors in the common space, of the student's and the teacher's embeddings."""
    return {
        name: normalized(Linear(16).apply({"params": params[name]}, embed))
        for name, embed in zip(NETWORKS, embeds, strict=True)
    }


def test_the_references_loss_and_gradient(gold):
    params, memory = recorded(gold)

    def loss(student):
        found = all_scores(
            anchors(params, student, gold["in/teacher"]), memory, gold["contrast_idx"], 0.07
        )
        return contrastive_loss(found, memory)

    value, gradient = jax.jit(jax.value_and_grad(loss))(gold["in/student"])
    np.testing.assert_allclose(value, gold["loss"].reshape(()), rtol=1e-4)
    np.testing.assert_allclose(
        gradient, gold["grad/student"], rtol=1e-3, atol=1e-4 * np.abs(gradient).max()
    )


def test_the_references_memory_after_a_step(gold):
    params, memory = recorded(gold)
    found = anchors(params, gold["in/student"], gold["in/teacher"])
    z = normaliser(all_scores(found, memory, gold["contrast_idx"], 0.07), memory)
    np.testing.assert_allclose(z, gold["after/Z"], rtol=1e-4)
    for name, bank in zip(NETWORKS, ("memory_v1", "memory_v2"), strict=True):
        after = momentum_update(jnp.asarray(memory[name]), gold["idx"], found[name], 0.5)
        np.testing.assert_allclose(
            after[gold["idx"]], gold[f"after/{bank}_rows"], rtol=1e-4, atol=1e-6
        )
        kept = np.setdiff1d(np.arange(100), gold["idx"])
        np.testing.assert_array_equal(after[kept], memory[name][kept])


def test_the_contrast_in_numpy():
    p = np.abs(arrays(3, 5)) / 40
    expected = 0.0
    for row in p.astype(np.float64):
        expected -= np.log(row[0] / (row[0] + 4 / 100 + 1e-7)) / 3
        expected -= sum(np.log(4 / 100 / (x + 4 / 100 + 1e-7)) for x in row[1:]) / 3
    np.testing.assert_allclose(contrast(p, 100), expected, rtol=1e-5)


def test_negatives_are_all_the_images_of_other_classes_and_no_other():
    memory = first_memory(jax.random.key(0), LABEL, 4, 6)
    drawn = np.asarray(draw_negatives(jax.random.key(1), memory, LABEL[:4], 2000))
    for label, row in zip(LABEL[:4], drawn, strict=True):
        others = np.flatnonzero(LABEL != label)
        images, counts = np.unique(row, return_counts=True)
        np.testing.assert_array_equal(images, others)
        assert counts.min() > 0.8 * 2000 / others.size


def test_what_it_is_blind_to():
    """The order of the batch and of negatives, the scale of embeddings."""
    memory = {**first_memory(jax.random.key(0), LABEL, 4, 6), "normaliser": np.full(2, 3.0)}
    found = {name: np.asarray(normalized(arrays(4, 6, seed=i))) for i, name in enumerate(NETWORKS)}
    chosen = np.random.default_rng(0).integers(0, 8, (4, 5))

    def loss(anchors, chosen):
        return float(contrastive_loss(all_scores(anchors, memory, chosen, 0.07), memory))

    shuffled = np.concatenate([chosen[:, :1], chosen[:, [3, 1, 4, 2]]], 1)
    for other in (
        loss(found, shuffled),
        loss({name: x[::-1] for name, x in found.items()}, chosen[::-1]),
    ):
        np.testing.assert_allclose(other, loss(found, chosen), rtol=1e-5)
    assert loss(found, chosen[:, ::-1]) != pytest.approx(loss(found, chosen), rel=1e-3)


STAGE = crd(**NUMBERS)["student"]


def first() -> Memory:
    return STAGE.memory(jax.random.key(1), Facts(LABEL, (2, 2, 3), 3))


def step(student, teacher, memory: Memory, key: int = 0) -> Losses:
    """Of a batch of the first four images."""
    embeds = {"student": student, "teacher": teacher}
    nets = {name: outputs(None, embed) for name, embed in embeds.items()}
    for i, (name, embed) in enumerate(embeds.items()):
        module = STAGE.nets[f"{name}_embed"].module
        variables = module.init(jax.random.key(i), embed)
        nets[f"{name}_embed"] = partial(module.apply, variables)
    batch = given_batch(LABEL[:4], key=jax.random.key(key), memory=memory)
    return STAGE.loss(given_nets(**nets), batch)


one_step = jax.jit(step)


def test_the_first_memory():
    """Random banks, no normaliser yet, and the images of every class side by side."""
    memory, bound = first(), (6 / 3) ** -0.5
    for name in NETWORKS:
        assert memory[name].shape == (8, 6) and 0.9 * bound < np.abs(memory[name]).max() <= bound
    assert (memory["student"] != memory["teacher"]).all() and not memory["normaliser"].any()
    np.testing.assert_array_equal(memory["by_class"], [1, 3, 6, 2, 7, 0, 4, 5])
    np.testing.assert_array_equal(memory["first"], [0, 3, 5])
    np.testing.assert_array_equal(memory["size"], [3, 2, 3])


def test_the_normaliser_is_that_of_the_first_batch():
    student, teacher, begun = arrays(4, 5), arrays(4, 7, seed=1), first()
    after = one_step(student, teacher, begun).memory
    later = one_step(-student, teacher + 1, after, key=1).memory
    assert (after["normaliser"] > 0).all()
    np.testing.assert_array_equal(later["normaliser"], after["normaliser"])


def test_what_is_remembered_is_of_the_images_seen():
    student, teacher, begun = arrays(4, 5), arrays(4, 7, seed=1), first()
    after = one_step(student, teacher, begun).memory
    assert set(after) == set(begun)
    for name in NETWORKS:
        assert (after[name][:4] != begun[name][:4]).any(1).all()
        np.testing.assert_array_equal(after[name][4:], begun[name][4:])
        np.testing.assert_allclose(jnp.linalg.norm(after[name][:4], axis=1), np.ones(4), rtol=1e-5)
    for name in ("by_class", "first", "size"):
        np.testing.assert_array_equal(after[name], begun[name])


def test_negatives_are_drawn_anew_with_another_key():
    student, teacher, begun = arrays(4, 5), arrays(4, 7, seed=1), first()
    one, same, other = (
        float(one_step(student, teacher, begun, key).terms["crd"]) for key in (0, 0, 1)
    )
    assert one == same != other


def test_ties_and_zeros():
    begun = first()

    def term(student, teacher):
        return step(student, teacher, begun).terms["crd"]

    check_at_ties(term, arrays(4, 5), arrays(4, 7, seed=1))


def test_at_the_lowest_temperature_equal_embeddings_are_no_infinity():
    """With as many images and negatives as on ImageNet, all of them like the anchor."""
    lowest, images, row = rule_of(Temperature).least, 1_281_167, np.eye(1, 4, dtype=np.float32)
    bank, chosen = np.repeat(row, 8, 0), np.zeros((256, 16385), np.int32)

    def loss(anchor):
        score = scores(jnp.repeat(anchor, 256, 0), bank, chosen, lowest)
        return contrast(score / (images * score.mean()), images)

    value, gradient = jax.value_and_grad(loss)(row)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_what_the_term_and_the_memory_are_made_of():
    """Each image's own entry comes first, then its negatives; a momentum of its own."""
    label = np.array([2, 0, 1, 0, 2, 2, 0, 1])
    numbers = dict(width=6, negative_count=9, temperature=0.5, momentum=0.25, kd_temperature=4.0)
    stage = crd(**numbers)["student"]
    memory = stage.memory(jax.random.key(1), Facts(label, (2, 2, 3), 3))
    student, teacher = arrays(4, 6), arrays(4, 6, seed=1)
    nets = given_nets(
        student=outputs(None, student),
        teacher=outputs(None, teacher),
        student_embed=lambda embed: embed,
        teacher_embed=lambda embed: embed,
    )
    index, key = np.array([7, 3, 0, 5]), jax.random.key(2)
    batch = given_batch(label[index], key=key, memory=memory)._replace(index=index)
    found = stage.loss(nets, batch)
    anchors = {"student": normalized(student), "teacher": normalized(teacher)}
    negatives = draw_negatives(key, memory, label[index], 9)
    scores = all_scores(anchors, memory, np.concatenate([index[:, None], negatives], 1), 0.5)
    expected = contrastive_loss(scores, memory)
    np.testing.assert_allclose(found.terms["crd"], expected, rtol=1e-5)
    for name, anchor in anchors.items():
        moved = normalized(0.25 * memory[name][index] + 0.75 * anchor)
        np.testing.assert_allclose(found.memory[name][index], moved, rtol=1e-5)
