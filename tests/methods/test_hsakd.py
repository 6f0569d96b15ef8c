"""HSAKD's losses, gradients and accuracies against the reference's, and what they are blind to."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from branched import as_nets, assert_same_predictions, recorded, value_and_gradient
from golden import Golden, assert_near
from pairs import arrays, given_batch, given_losses, given_nets, outputs

from sskd_jax.methods import hsakd
from sskd_jax.types import UserError
from sskd_jax.views import turned

METHOD = hsakd.hsakd(temperature=3.0)
NETS = ("student", "teacher")


@pytest.fixture(scope="module")
def gold(shared) -> partial:
    return partial(Golden(shared / "golden").under, "hsakd.npz")


def test_branches_of_the_frozen_teacher_are_the_reference(gold):
    case = gold("hsakd_teacher")
    losses = given_losses(
        METHOD["branches"], case["label"], **as_nets(teacher=recorded(case, "in"))
    )
    np.testing.assert_allclose(losses.terms["joint_ce"], case["joint_ce"].sum(), rtol=1e-5)
    np.testing.assert_allclose(losses.figures["joint_top1"], case["joint_top1"].mean(), rtol=1e-6)


def test_the_student_is_the_reference(gold):
    case = gold("hsakd_student")
    own, other = (recorded(case, "in", f"{net}_") for net in NETS)
    losses, gradient, of_ce = value_and_gradient(
        METHOD["student"], case["label"], as_nets(teacher=other), student=own
    )
    expected = {"ce": case["ce"], "kd": case["kd"], "joint_kd": case["joint_kd"].sum()}
    assert set(losses.terms) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(losses.terms[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(sum(losses.terms.values()), case["loss"], rtol=1e-5)
    np.testing.assert_allclose(losses.figures["accuracy"], case["class_top1"][-1], rtol=1e-6)
    assert_same_predictions(gradient["student"], recorded(case, "grad", "student_"))
    assert_near(of_ce["student"].logits, case["grad_ce/student_logits"], 1e-5)
    of_kd = gradient["student"].logits - of_ce["student"].logits
    assert_near(of_kd, case["grad_kd/student_logits"], 1e-5)


@pytest.mark.parametrize("case", ["hsakd_teacher", "hsakd_student"])
def test_accuracies_of_every_branch_are_the_reference(case, gold):
    case = gold(case)
    net = "" if "in/logits" in case else "student_"
    predicted = recorded(case, "in", net)
    for i in range(3):
        scores = hsakd.joint_scores(
            predicted._replace(joint=predicted.joint[i : i + 1]), case["label"]
        )
        np.testing.assert_allclose(scores["joint_top1"].mean(), case["joint_top1"][i], rtol=1e-6)
        np.testing.assert_allclose(scores["class_top1"].mean(), case["class_top1"][i], rtol=1e-6)


def test_scores_are_those_of_the_network_and_the_mean_over_its_branches(gold):
    case = gold("hsakd_student")
    nets = as_nets(student=recorded(case, "in", "student_"))
    scores = METHOD["student"].scores(given_nets(**nets), given_batch(case["label"]))
    means = {name: float(jnp.mean(score)) for name, score in scores.items()}
    assert list(means) == ["top1", "top5", "loss", "joint_top1", "class_top1"]
    np.testing.assert_allclose(means["top1"], case["class_top1"][-1], rtol=1e-6)
    np.testing.assert_allclose(means["loss"], case["ce"], rtol=1e-5)
    np.testing.assert_allclose(means["joint_top1"], case["joint_top1"].mean(), rtol=1e-6)
    np.testing.assert_allclose(means["class_top1"], case["class_top1"][:-1].mean(), rtol=1e-6)


def test_joint_labels_are_numbered_by_class_and_then_by_rotation():
    np.testing.assert_array_equal(hsakd.joint_label(np.array([2, 0])), [8, 9, 10, 11, 0, 1, 2, 3])


def test_all_nets_see_one_view_and_its_turns():
    """And branches see the maps of their own network."""
    seen = []

    def network(view: Any) -> Any:
        seen.append(view)
        return outputs(arrays(8, 10), None, arrays(8, 2, 2, 3, seed=len(seen)))

    def branch(maps: Any) -> Any:
        seen.append(float(maps[0].sum()))
        return (arrays(8, 40),)

    nets = {"student": network, "teacher": network}
    nets |= {"student_branches": branch, "teacher_branches": branch}
    given_losses(METHOD["student"], np.array([1, 2]), **nets)
    sums = [float(arrays(8, 2, 2, 3, seed=seed).sum()) for seed in (1, 3)]
    assert seen == [turned, sums[0], turned, sums[1]]


@pytest.mark.parametrize(("ours", "theirs"), [(2, 3), (3, 2)])
def test_networks_with_other_numbers_of_branches_are_told(ours, theirs):
    counts = {"student": ours, "teacher": theirs}
    nets = {
        name: hsakd.Predictions(arrays(8, 10), (arrays(8, 40),) * count)
        for name, count in counts.items()
    }
    message = f"the student has {ours} and the teacher {theirs}: choose networks with as many"
    with pytest.raises(UserError, match=message):
        given_losses(METHOD["student"], np.array([1, 2]), **as_nets(**nets))
