"""Knowledge adjustment against values from its equations."""

import jax
import numpy as np
import pytest
from golden import Golden, assert_near
from pairs import arrays, check_at_ties, given_losses, outputs

from sskd_jax.losses import compared_logits, shifted
from sskd_jax.methods import METHODS
from sskd_jax.methods.ka_dtd import ka, smoothed
from sskd_jax.types import UserError

LABEL = np.array([0, 6, 3, 3, 1])


@pytest.fixture(scope="module")
def gold(shared) -> dict[str, np.ndarray]:
    return Golden(shared / "golden").arrays("ka_dtd.npz")


@pytest.mark.parametrize(("adjustment", "key"), [("shift", "ps"), ("smooth", "ls")])
def test_recorded_values(gold, adjustment, key):
    stage = ka(temperature=8.0, adjustment=adjustment, smoothing=0.1)["student"]

    @jax.jit
    @jax.value_and_grad
    def loss(student):
        nets = {"student": outputs(student), "teacher": outputs(gold["in/teacher"])}
        return given_losses(stage, gold["in/label"], **nets).terms["kd"]

    value, gradient = loss(gold["in/student"])
    assert_near(value, gold[f"{key}/kd"], 1e-4)
    assert_near(gradient, gold[f"{key}/grad/student"], 1e-4)


def test_recorded_targets(gold):
    teacher, label = gold["in/teacher"], gold["in/label"]
    np.testing.assert_array_equal(shifted(teacher, label), gold["ps/logits"])
    for key, adjusted in (
        ("ps", shifted(teacher / 8, label)),
        ("ls", smoothed(teacher / 8, label, 0.1)),
    ):
        assert_near(jax.nn.softmax(adjusted), gold[f"{key}/target"], 1e-5)


def test_a_teacher_that_is_right_is_left_alone():
    teacher = arrays(5, 7)
    label = teacher.argmax(1)
    np.testing.assert_array_equal(shifted(teacher, label), teacher)
    np.testing.assert_array_equal(smoothed(teacher, label, 0.1), teacher)
    label[2] = (label[2] + 1) % 7
    for adjusted in (shifted(teacher, label), smoothed(teacher, label, 0.1)):
        assert (np.asarray(adjusted != teacher).any(1) == (np.arange(5) == 2)).all()
        np.testing.assert_array_equal(adjusted.argmax(1), label)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("adjustment", ["shift", "smooth"])
def test_ties_and_zeros(adjustment, smoothing):
    stage = ka(temperature=8.0, adjustment=adjustment, smoothing=smoothing)["student"]

    def loss(student, teacher):
        nets = {"student": outputs(student), "teacher": outputs(teacher)}
        return given_losses(stage, LABEL, **nets).terms["kd"]

    check_at_ties(loss, arrays(5, 7), arrays(5, 7, seed=1))


def test_an_adjustment_that_is_not_known_is_told():
    with pytest.raises(UserError, match="unknown adjustment 'shft': did you mean 'shift'"):
        ka(temperature=8.0, adjustment="shft", smoothing=0.1)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("dkd", {"warmup_epochs": 0, "standardize": False}),
        ("dist", {"standardize": True}),
        ("ttm", {}),
        ("wttm", {}),
    ],
)
def test_methods_on_logits_can_be_taught_by_shifted_ones(name, numbers):
    """Which is the same as by a teacher that has these logits."""
    student, teacher = arrays(5, 7), arrays(5, 7, seed=1)

    def terms(shift, logits):
        stage = METHODS[name](temperature=4.0, shift=shift, **numbers)["student"]
        nets = {"student": outputs(student), "teacher": outputs(logits)}
        return given_losses(stage, LABEL, epoch=30, **nets).terms

    found, plain = terms(True, teacher), terms(False, teacher)
    assert found == terms(False, shifted(teacher, LABEL)) and found != plain


def test_logits_are_shifted_before_they_are_standardized():
    student, teacher = outputs(arrays(5, 7)), outputs(arrays(5, 7, seed=1))
    moved = teacher._replace(logits=shifted(teacher.logits, LABEL))
    found = compared_logits(student, teacher, True, LABEL)
    jax.tree.map(np.testing.assert_array_equal, found, compared_logits(student, moved, True))
