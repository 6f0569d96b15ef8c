"""The teacher's stage, students that one teaches, and top-1 accuracy against numpy."""

import numpy as np
import pytest
from pairs import arrays, given_batch, given_losses, given_nets, outputs

from sskd_jax.losses import accuracy, cross_entropy, soft_divergence
from sskd_jax.methods.common import (
    TEACHER,
    classification_scores,
    supervised,
    taught,
    top,
    unscored,
    with_kd,
)
from sskd_jax.types import Losses, frozen, learns
from sskd_jax.views import once

STUDENT, TEACHERS = arrays(6, 10), arrays(6, 10, seed=1)
PLACES = np.array([0, 2, 9, 0, 4, 5])  # of the label among a row's logits, best first
LABELS = np.take_along_axis(np.argsort(-STUDENT, 1), PLACES[:, None], 1)[:, 0]


def test_the_teacher_learns_from_the_labels_once_for_all_methods():
    assert TEACHER.shared and TEACHER.nets == {"teacher": learns("teacher")}
    terms, figures, _ = given_losses(TEACHER, LABELS, teacher=outputs(TEACHERS))
    assert terms == {"ce": cross_entropy(TEACHERS, LABELS)}
    assert figures == {"accuracy": accuracy(TEACHERS, LABELS)}
    assert not supervised("teacher").shared


def test_scores_of_every_row():
    scores = classification_scores(STUDENT, LABELS)
    np.testing.assert_array_equal(scores["top1"], PLACES == 0)
    np.testing.assert_array_equal(scores["top5"], PLACES < 5)
    rows = np.log(np.exp(STUDENT).sum(1)) - STUDENT[np.arange(6), LABELS]
    np.testing.assert_allclose(scores["loss"], rows, rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 5])
def test_of_five_classes_or_fewer_all_are_among_the_first_five(classes):
    logits, label = STUDENT[:, :classes], LABELS % classes
    scores = classification_scores(logits, label)
    np.testing.assert_array_equal(scores["top5"], np.ones(6))
    np.testing.assert_array_equal(scores["top1"], logits.argmax(1) == label)


def test_top_scores_the_net_that_it_names():
    nets = given_nets(student=outputs(STUDENT), teacher=outputs(TEACHERS))
    for name, logits in (("student", STUDENT), ("teacher", TEACHERS)):
        scores = top(name)(nets, given_batch(LABELS))
        assert list(scores) == ["top1", "top5", "loss"]
        np.testing.assert_array_equal(scores["top1"], logits.argmax(1) == LABELS)
    assert unscored(nets, given_batch(LABELS)) == {}


def own(nets, batch, student, teacher):
    assert batch.label is LABELS
    difference = nets["regressor"](student.logits) - teacher.logits
    return Losses({"own": np.abs(difference).mean()}, memory=batch.memory)


def test_a_student_learns_from_the_labels_and_from_its_teacher():
    earlier = supervised("student")
    method = taught(
        ("own",),
        own,
        nets={"regressor": learns("student")},
        before={"warmup": earlier},
        start="warmup/student",
        memory=dict,
    )
    assert list(method) == ["teacher", "warmup", "student"]
    assert method["teacher"] is TEACHER and method["warmup"] is earlier
    stage = method["student"]
    assert stage.terms == ("ce", "own") and stage.memory is dict and not stage.shared
    assert stage.nets == {
        "student": learns("student", "warmup/student"),
        "teacher": frozen("teacher", "teacher/teacher"),
        "regressor": learns("student"),
    }


def test_the_terms_of_both_networks_on_one_view():
    stage, seen = taught(("own",), own, nets={"regressor": learns("student")})["student"], []

    def student(pixels):
        seen.append(pixels)
        return outputs(STUDENT)

    def teacher(pixels):
        seen.append(pixels)
        return outputs(TEACHERS)

    nets = {"student": student, "teacher": teacher, "regressor": lambda rows: 2 * rows}
    terms, figures, _ = given_losses(stage, LABELS, **nets)
    assert seen == [once, once]
    assert terms["ce"] == cross_entropy(STUDENT, LABELS)
    assert terms["own"] == np.abs(2 * STUDENT - TEACHERS).mean()
    assert figures == {"accuracy": accuracy(STUDENT, LABELS)}


def test_kd_stands_beside_the_terms_of_its_own():
    method = with_kd(("own",), own, kd_temperature=3.0, nets={"regressor": learns("student")})
    assert method["student"].terms == ("ce", "kd", "own")
    nets = {"student": outputs(STUDENT), "teacher": outputs(TEACHERS)}
    terms = given_losses(method["student"], LABELS, **nets, regressor=lambda rows: rows).terms
    expected = soft_divergence(STUDENT, TEACHERS, temperature=3.0)
    np.testing.assert_allclose(terms["kd"], expected, rtol=1e-6)
    assert set(terms) == {"ce", "kd", "own"}


def test_what_it_remembers_goes_on():
    stage = with_kd(("own",), own, kd_temperature=3.0, nets={"regressor": learns("student")})
    nets = given_nets(
        student=outputs(STUDENT), teacher=outputs(TEACHERS), regressor=lambda rows: rows
    )
    memory = {"bank": np.ones(3)}
    losses = stage["student"].loss(nets, given_batch(LABELS, memory=memory))
    assert losses.memory is memory
