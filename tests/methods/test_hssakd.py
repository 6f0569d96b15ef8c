"""HSSAKD's losses and gradients against the reference's, and who teaches whom."""

import jax
import numpy as np
import pytest
from branched import as_nets, assert_same_predictions, recorded, value_and_gradient
from golden import Golden, assert_near
from pairs import given_batch, given_nets

from sskd_jax.methods import hsakd
from sskd_jax.methods.hssakd import hssakd

STAGE = hssakd(temperature=3.0)["student"]
PEERS = {"student": "net0_", "peer": "net1_"}


@pytest.fixture(scope="module")
def case(shared) -> dict[str, np.ndarray]:
    return Golden(shared / "golden").under("hsakd.npz", "hssakd_online")


@pytest.fixture(scope="module")
def found(case):
    own = {name: recorded(case, "in", net) for name, net in PEERS.items()}
    return value_and_gradient(STAGE, case["label"], {}, **own)


def test_terms_are_the_reference_summed_over_both(case, found):
    losses, *_ = found
    assert set(losses.terms) == {"ce", "joint_ce", "kd", "joint_kd"}
    for name, value in losses.terms.items():
        np.testing.assert_allclose(value, case[name].sum(), rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(sum(losses.terms.values()), case["loss"], rtol=1e-5)
    accuracies = losses.figures["accuracy"], losses.figures["peer_accuracy"]
    np.testing.assert_allclose(accuracies, case["class_top1"][:, -1], rtol=1e-6)


@pytest.mark.parametrize("name", PEERS)
def test_gradients_are_the_reference(name, case, found):
    """So each is a constant target to the other."""
    _, gradient, of_ce = found
    assert_same_predictions(gradient[name], recorded(case, "grad", PEERS[name]))
    assert_near(of_ce[name].logits, case[f"grad_ce/{PEERS[name]}logits"], 1e-5)


@pytest.mark.parametrize(("name", "row"), [("student", 0), ("peer", 1)])
def test_accuracies_of_both_are_the_reference(name, row, case):
    predicted = recorded(case, "in", PEERS[name])
    for i, joint in enumerate(predicted.joint):
        scores = hsakd.joint_scores(predicted._replace(joint=(joint,)), case["label"])
        np.testing.assert_allclose(scores["joint_top1"].mean(), case["joint_top1"][row, i])
        np.testing.assert_allclose(scores["class_top1"].mean(), case["class_top1"][row, i])


def test_scores_name_the_peers(case):
    nets = as_nets(**{name: recorded(case, "in", net) for name, net in PEERS.items()})
    # Seen as it is, an image is one row: the peer's scores come from the first view alone.
    nets["peer"] = nets["peer"]._replace(logits=nets["peer"].logits[::4])
    scores = STAGE.scores(given_nets(**nets), given_batch(case["label"]))
    means = jax.tree.map(np.mean, scores)
    np.testing.assert_allclose(means["top1"], case["class_top1"][0, -1], rtol=1e-6)
    np.testing.assert_allclose(means["peer_top1"], case["class_top1"][1, -1], rtol=1e-6)
    assert [name for name in scores if name.startswith("peer")] == [
        "peer_top1",
        "peer_top5",
        "peer_loss",
    ]
