"""Decoupled distillation against the paper's equations."""

import jax
import numpy as np
import pytest
from pairs import arrays, check_at_ties, check_blind, check_recent, given_losses, outputs

from sskd_jax.losses import soft_divergence
from sskd_jax.methods.dkd import dkd, other_divergence, target_divergence

STUDENT, TEACHER, LABEL = arrays(5, 7), arrays(5, 7, seed=1), np.array([0, 6, 3, 3, 1])
PARTS = {"target": target_divergence, "other": other_divergence}


def parts(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The label's probability [5] and the others' among themselves [5, 6]."""
    prediction = np.asarray(jax.nn.softmax(logits), np.float64)
    target = prediction[np.arange(5), LABEL]
    others = np.stack([np.delete(row, label) for row, label in zip(prediction, LABEL, strict=True)])
    return target, others / others.sum(1, keepdims=True)


def test_the_papers_equations():
    (ours, our_others), (target, others) = parts(STUDENT), parts(TEACHER)
    expected = np.mean(
        target * np.log(target / ours) + (1 - target) * np.log((1 - target) / (1 - ours))
    )
    np.testing.assert_allclose(target_divergence(STUDENT, TEACHER, LABEL), expected, rtol=1e-4)
    expected = np.mean(np.sum(others * np.log(others / our_others), 1))
    np.testing.assert_allclose(other_divergence(STUDENT, TEACHER, LABEL), expected, rtol=1e-4)


def test_the_parts_make_up_the_whole():
    """KL = TCKD + (1 - the teacher's probability of the label) NCKD, image by image."""
    for i in range(5):
        one = slice(i, i + 1)
        target = parts(TEACHER)[0][i]
        whole = target_divergence(STUDENT[one], TEACHER[one], LABEL[one]) + (
            1 - target
        ) * other_divergence(STUDENT[one], TEACHER[one], LABEL[one])
        np.testing.assert_allclose(
            whole, soft_divergence(STUDENT[one], TEACHER[one], temperature=1.0), rtol=1e-4
        )


@pytest.mark.parametrize("term", ["tckd", "nckd"])
@pytest.mark.parametrize("key", ["dkd/T1", "dkd/T4", "dkd_ls/T2", "dkd_ls/T3"])
def test_the_authors_values(shared, key, term):
    """Also on standardized logits."""
    numbers = {"temperature": float(key[-1]), "standardize": "_ls" in key, "warmup_epochs": 0}
    stage = dkd(**numbers, shift=False)["student"]

    def loss(student, teacher, label):
        nets = {"student": outputs(student), "teacher": outputs(teacher)}
        return given_losses(stage, label, **nets).terms[term]

    check_recent(shared, key, term, loss, f"grad_{term}")


@pytest.mark.parametrize("part", PARTS)
def test_what_it_is_blind_to(part):
    def loss(student, teacher):
        return PARTS[part](student, teacher, LABEL)

    check_blind(loss, STUDENT, TEACHER, (STUDENT + 3, TEACHER - 1))
    turned = PARTS[part](STUDENT[::-1], TEACHER[::-1], LABEL[::-1])
    np.testing.assert_allclose(turned, loss(STUDENT, TEACHER), rtol=1e-5)


@pytest.mark.parametrize("scale", [1, 300])
@pytest.mark.parametrize("part", PARTS)
def test_ties_and_certainty(part, scale):
    check_at_ties(
        lambda student, teacher: PARTS[part](student, teacher, LABEL),
        scale * STUDENT,
        scale * TEACHER,
    )


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.05), (9, 0.5), (19, 1.0), (200, 1.0)])
def test_the_first_epochs(epoch, share):
    stage = dkd(temperature=2.0, warmup_epochs=20, standardize=False, shift=False)["student"]
    nets = {"student": outputs(STUDENT), "teacher": outputs(TEACHER)}
    terms = given_losses(stage, LABEL, epoch=epoch, **nets).terms
    target, other = (part(STUDENT / 2, TEACHER / 2, LABEL) for part in PARTS.values())
    np.testing.assert_allclose(terms["tckd"], 4 * share * target, rtol=1e-5)
    np.testing.assert_allclose(terms["nckd"], 4 * share * other, rtol=1e-5)
