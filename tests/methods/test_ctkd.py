"""Curriculum temperature against its authors' values."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from golden import Golden, assert_near
from pairs import given_losses, outputs

from sskd_jax.engine import optim
from sskd_jax.methods.ctkd import ctkd, reversal

WEIGHTS = {"kd": (0.1, 0.9), "kd_theta-3": (0.1, 0.9), "imagenet": (1, 1), "ls": (0.1, 9)}
EPOCHS = (0, 4, 9)  # of the recorded factors


@pytest.fixture(scope="module")
def gold(shared) -> dict[str, np.ndarray]:
    return Golden(shared / "golden").arrays("losses_recent.npz")


@pytest.mark.parametrize("loops", [5, 10])
def test_the_reversal_follows_a_cosine(gold, loops):
    found = [reversal(epoch, loops) for epoch in range(12)]
    np.testing.assert_allclose(found, gold[f"ctkd/ramp_loops{loops}"], atol=1e-6)


def objective(gold, key):
    """(student, theta, epoch) -> (weighted loss, kd and temperature)."""
    stage = ctkd(lowest=1.0, span=20.0, ramp_epochs=10, standardize=key == "ls")["student"]
    module = stage.nets["temperature"].module
    ce, kd = WEIGHTS[key]

    def loss(student, theta, epoch):
        nets = {
            "student": outputs(student),
            "teacher": outputs(gold["in/teacher"]),
            "temperature": partial(module.apply, {"params": {"theta": theta}}),
        }
        terms, figures, _ = given_losses(stage, gold["in/label"], epoch=epoch, **nets)
        return ce * terms["ce"] + kd * terms["kd"], (terms["kd"], figures["temperature"])

    return loss


@pytest.mark.parametrize("key", WEIGHTS)
def test_the_authors_values(gold, key):
    """theta gets its gradient times the factor; the student's is as ever."""
    # At a temperature of 15.6, float32 loses two hundredths of the derivative by it.
    tolerance = 1e-4 if key == "kd_theta-3" else 5e-2
    theta, student = np.float32(-3 if key == "kd_theta-3" else 1), gold["in/student"]
    gradient = jax.jit(jax.value_and_grad(objective(gold, key), (0, 1), has_aux=True))
    name = f"ctkd/{key}"
    for i, epoch in enumerate(EPOCHS):
        (loss, (kd, temperature)), (of_student, of_theta) = gradient(student, theta, epoch)
        np.testing.assert_allclose(temperature, gold[f"{name}/temperature"], rtol=1e-5)
        np.testing.assert_allclose(kd, gold[f"{name}/kd"], rtol=1e-4)
        np.testing.assert_allclose(loss, gold[f"{name}/loss"], rtol=1e-4)
        ce, weight = WEIGHTS[key]
        expected = ce * gold["in/grad_ce/student"] + weight * gold[f"{name}/grad/student"]
        assert_near(of_student, expected, 1e-4)
        np.testing.assert_allclose(of_theta, gold[f"{name}/grad_loss/theta"][i], rtol=tolerance)


def test_theta_begins_at_one():
    module = ctkd(lowest=1.0, span=20.0, ramp_epochs=10, standardize=False)["student"]
    module = module.nets["temperature"].module
    temperature, variables = module.init_with_output(jax.random.key(0), 1.0)
    assert variables == {"params": {"theta": 1.0}}
    np.testing.assert_allclose(temperature, 1 + 20 / (1 + np.exp(-1)), rtol=1e-6)


@pytest.mark.parametrize(("key", "start"), [("kd", 1.0), ("kd_theta-3", -3.0), ("ls", 1.0)])
def test_theta_decays_like_the_student(gold, key, start):
    """SGD's steps in three epochs, on the same logits."""
    sgd = optim.sgd(lambda step: 0.05, momentum=0.9, weight_decay=5e-4)
    gradient = jax.jit(jax.grad(objective(gold, key), 1, has_aux=True))
    theta, changes = np.float32(start), []
    state = sgd.init(theta)
    for epoch in EPOCHS:
        found, _ = gradient(gold["in/student"], theta, epoch)
        updates, state = sgd.update(found, state, theta)
        theta = optax.apply_updates(theta, updates)
        changes.append(theta - start)
    assert_near(changes, gold[f"ctkd/{key}/theta_change"], 5e-2)
