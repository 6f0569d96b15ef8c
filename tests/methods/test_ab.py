"""AB's activation boundaries against the reference's values and numpy."""

import jax
import numpy as np
from golden import Golden
from pairs import (
    arrays,
    check_at_ties,
    check_blind,
    check_golden_maps,
    given_losses,
    outputs,
)

from sskd_jax.methods.ab import Connectors, ab, boundary_loss, transfer_loss
from sskd_jax.types import learns

STUDENT, TEACHER = 2 * arrays(3, 4, 4, 5), arrays(3, 4, 4, 5, seed=1)


def test_the_references_values(shared):
    check_golden_maps(Golden(shared / "golden").under("losses.npz", "ab"), transfer_loss)


def test_neurons_are_pushed_to_the_teachers_side():
    expected = 0.0
    for ours, theirs in zip(STUDENT.ravel(), TEACHER.ravel(), strict=True):
        expected += max(0, 1 - ours) ** 2 if theirs > 0 else max(0, ours + 1) ** 2
    np.testing.assert_allclose(boundary_loss(STUDENT, TEACHER), expected / 3, rtol=1e-5)


def test_what_it_is_blind_to():
    order = np.random.default_rng(0).permutation(5)
    check_blind(
        boundary_loss,
        STUDENT,
        TEACHER,
        (STUDENT[..., order], TEACHER[..., order]),
        (STUDENT[::-1], TEACHER[::-1]),
        (STUDENT, 7 * TEACHER),
    )


def test_ties_and_zeros():
    check_at_ties(boundary_loss, STUDENT, TEACHER)


def test_only_maps_of_another_shape_get_a_connector():
    shapes = (
        [(2, 8, 8, 4), (2, 8, 8, 4), (2, 4, 4, 6)],
        [(2, 8, 8, 4), (2, 8, 8, 6), (2, 8, 8, 6)],
    )
    students, teachers = ([arrays(*shape) for shape in maps] for maps in shapes)
    key = jax.random.key(0)
    found, variables = Connectors().init_with_output(key, students, teachers)
    assert set(variables["params"]) == {"1", "2"}
    assert [features.shape for features in found] == shapes[1]
    assert found[0] is students[0]


def test_the_first_stage_compares_what_lies_behind_the_stem():
    """The student then goes on from there, with the labels alone (and KD beside)."""
    method = ab(kd_temperature=4.0)
    stem = arrays(3, 8, 8, 7, seed=5)
    student, teacher = outputs(None, None, stem, STUDENT), outputs(None, None, stem, TEACHER)

    def connectors(students, teachers):
        np.testing.assert_array_equal(teachers[0], TEACHER)
        return [2 * features for features in students]

    student, teacher = student._replace(maps=()), teacher._replace(maps=())
    nets = {"student": student, "teacher": teacher, "connectors": connectors}
    losses = given_losses(method["warmup"], np.zeros(3, int), **nets)
    np.testing.assert_allclose(
        losses.terms["ab"], transfer_loss([2 * STUDENT], [TEACHER]), rtol=1e-6
    )
    assert list(method) == ["teacher", "warmup", "student"]
    assert method["student"].nets["student"] == learns("student", "warmup/student")
    assert method["student"].terms == ("ce", "kd")
