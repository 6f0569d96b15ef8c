import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from pairs import arrays, check_at_ties

from sskd_jax.layers.heads import embeds
from sskd_jax.losses import normalized
from sskd_jax.methods.crd import (
    NETWORKS,
    all_scores,
    contrast,
    contrastive_loss,
    crd,
    draw_negatives,
    first_memory,
    moved,
    normaliser,
)
from sskd_jax.types import Outputs

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


def anchors(params: dict, student, teacher) -> dict:
    outputs = (Outputs(np.zeros(()), embed) for embed in (student, teacher))
    return dict(zip(NETWORKS, map(normalized, embeds(params, *outputs, width=16)), strict=True))


def test_the_references_loss_and_gradient(gold):
    params, memory = recorded(gold)

    def loss(student):
        found = all_scores(
            anchors(params, student, gold["in/teacher"]), memory, gold["contrast_idx"], 0.07
        )
        return contrastive_loss(found, memory)

    value, gradient = jax.value_and_grad(loss)(gold["in/student"])
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
        after = moved(jnp.asarray(memory[name]), gold["idx"], found[name], 0.5)
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


def step(student, teacher, memory: dict | None = None, key: int = 0) -> tuple:
    """(the term, what is remembered) of a batch of four images."""
    method, outputs = (
        crd(**NUMBERS),
        [Outputs(np.zeros((4, 4), np.float32), x) for x in (student, teacher)],
    )
    params = method.init(jax.random.key(0), *outputs)
    batch = {
        "label": LABEL[:4],
        "index": np.arange(4),
        "key": jax.random.key(key),
        "memory": memory or method.memory(jax.random.key(1), *outputs, LABEL),
    }
    return method.loss(params, {}, *outputs, batch)[0]["crd"], method.remember(
        params, *outputs, batch
    )


def test_the_normaliser_is_that_of_the_first_batch():
    student, teacher = arrays(4, 5), arrays(4, 7, seed=1)
    _, first = step(student, teacher)
    _, second = step(-student, teacher + 1, first, key=1)
    np.testing.assert_array_equal(second["normaliser"], first["normaliser"])
    assert (first["normaliser"] > 0).all() and (second["student"][:4] != first["student"][:4]).any()
    np.testing.assert_array_equal(second["student"][4:], first["student"][4:])
    np.testing.assert_allclose(
        jnp.linalg.norm(second["teacher"][:4], axis=1), np.ones(4), rtol=1e-5
    )


def test_ties_and_zeros():
    check_at_ties(
        lambda student, teacher: step(student, teacher)[0], arrays(4, 5), arrays(4, 7, seed=1)
    )
