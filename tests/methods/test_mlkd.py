"""Multi-level logit distillation against its authors' values."""

from functools import partial

import jax
import numpy as np
import pytest
from golden import Golden, assert_near
from pairs import given_batch, given_nets, outputs

from sskd_jax.losses import soft_divergence, standardized
from sskd_jax.methods.mlkd import batch_distance, class_distance, kept_share, mlkd
from sskd_jax.views import once, strong

# The temperature, and the weights of cross-entropy and of the other terms.
NUMBERS = {"code": (4.0, 0.1, 0.9), "ls": (2.0, 0.1, 9.0), "imagenet": (1.0, 0.5, 0.5)}
TEMPERATURES = (2, 3, 4, 5, 6)


@pytest.fixture(scope="module", params=["mlkd", "mlkd_odd"])
def gold(shared, request) -> dict[str, np.ndarray]:
    return Golden(shared / "golden").under("losses_recent.npz", request.param)


def losses_on(stage, label, students, teachers):
    """Of nets that see a weak and a strong view; each looks up what was recorded of it."""
    views = {once: 0, strong: 1}
    nets = given_nets(
        student=lambda view: outputs(students[views[view]]),
        teacher=lambda view: outputs(teachers[views[view]]),
    )
    return stage.loss(nets, given_batch(label))


@pytest.mark.parametrize("key", NUMBERS)
def test_the_authors_values(gold, key):
    temperature, ce, weight = NUMBERS[key]
    stage = mlkd(temperature=temperature, standardize=key == "ls")["student"]
    students, teachers = (
        [gold[f"in/{who}_{view}"] for view in ("weak", "strong")] for who in ("student", "teacher")
    )

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(students):
        terms = losses_on(stage, gold["in/label"], students, teachers).terms
        weights = {name: ce if name == "ce" else weight for name in terms}
        weighted = [weights[name] * terms[name] for name in ("ce", "kd", "class", "batch")]
        return sum(weighted), weighted

    (value, weighted), gradients = loss(students)
    np.testing.assert_allclose(value, gold[f"{key}/loss"], rtol=1e-4)
    np.testing.assert_allclose(weighted, gold[f"{key}/weighted"], rtol=1e-4)
    if key != "imagenet":
        for found, view in zip(gradients, ("weak", "strong"), strict=True):
            assert_near(found, gold[f"{key}/grad_loss/student_{view}"], 1e-4)


def test_the_levels_one_by_one(gold):
    for view in ("weak", "strong"):
        student, teacher = (gold[f"in/{who}_{view}"] for who in ("student", "teacher"))
        for i, temperature in enumerate(TEMPERATURES):
            pair = [jax.nn.softmax(logits / temperature) for logits in (student, teacher)]
            for key, distance in (("class", class_distance), ("batch", batch_distance)):
                np.testing.assert_allclose(distance(*pair), gold[f"{key}/{view}"][i], rtol=1e-4)
            kd = partial(soft_divergence, temperature=temperature)
            np.testing.assert_allclose(kd(student, teacher), gold[f"kd/{view}"][i], rtol=1e-4)
            pair = standardized(student), standardized(teacher)
            np.testing.assert_allclose(kd(*pair), gold[f"kd_ls/{view}"][i], rtol=1e-4)


def test_what_the_teacher_is_less_sure_of(gold):
    prediction = np.asarray(jax.nn.softmax(gold["in/teacher_weak"]))
    for sureness, mask in ((prediction.max(1), "row_mask"), (prediction.sum(0), "class_mask")):
        np.testing.assert_allclose(kept_share(sureness), gold[mask].mean(), rtol=1e-6)


def test_ties_and_zeros():
    stage = mlkd(temperature=4.0, standardize=True)["student"]

    @jax.jit
    @jax.grad
    def gradient(student):
        zeros = np.zeros((4, 5), np.float32)
        terms = losses_on(stage, np.zeros(4, int), [student] * 2, [zeros] * 2).terms
        return sum(terms.values())

    assert np.isfinite(gradient(np.zeros((4, 5), np.float32))).all()
