"""The teacher that learns together with its branches, against the reference's values."""

import numpy as np
import pytest
from branched import as_nets, assert_same_predictions, recorded, value_and_gradient
from golden import Golden
from pairs import given_batch, given_nets

from sskd_jax.methods.common import TEACHER
from sskd_jax.methods.hsakd import hsakd, hsakd_joint

METHOD = hsakd_joint(temperature=3.0)


@pytest.fixture(scope="module")
def case(shared) -> dict[str, np.ndarray]:
    return Golden(shared / "golden").under("hsakd.npz", "hsakd_teacher")


def test_terms_and_gradients_are_the_reference(case):
    own = recorded(case, "in")
    losses, gradient, _ = value_and_gradient(METHOD["teacher"], case["label"], {}, teacher=own)
    np.testing.assert_allclose(losses.terms["ce"], case["ce"], rtol=1e-5)
    np.testing.assert_allclose(losses.terms["joint_ce"], case["joint_ce"].sum(), rtol=1e-5)
    np.testing.assert_allclose(sum(losses.terms.values()), case["loss"], rtol=1e-5)
    np.testing.assert_allclose(losses.figures["accuracy"], case["class_top1"][-1])
    assert_same_predictions(gradient["teacher"], recorded(case, "grad"))


def test_scores_are_those_of_the_teacher_and_the_mean_over_its_branches(case):
    nets = given_nets(**as_nets(teacher=recorded(case, "in")))
    scores = METHOD["teacher"].scores(nets, given_batch(case["label"]))
    means = {name: float(np.mean(score)) for name, score in scores.items()}
    assert list(means) == ["top1", "top5", "loss", "joint_top1", "class_top1"]
    np.testing.assert_allclose(means["top1"], case["class_top1"][-1], rtol=1e-6)
    np.testing.assert_allclose(means["joint_top1"], case["joint_top1"].mean(), rtol=1e-6)


def test_its_stages_are_its_own_and_the_student_differs_in_its_origin_alone():
    assert list(METHOD) == ["teacher", "student"] and METHOD["teacher"] is not TEACHER
    ours, other = METHOD["student"], hsakd(temperature=3.0)["student"]
    nets = dict(other.nets)
    nets["teacher_branches"] = nets["teacher_branches"]._replace(start="teacher/teacher_branches")
    assert ours.nets == nets and ours.terms == other.terms
