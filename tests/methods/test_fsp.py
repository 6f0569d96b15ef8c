"""FSP's matrices against the reference's values and numpy."""

import numpy as np
import pytest
from golden import Golden
from pairs import (
    arrays,
    check_at_ties,
    check_blind,
    check_golden_maps,
    given_losses,
    outputs,
)

from sskd_jax.methods.fsp import flow, flow_loss, fsp, warmup
from sskd_jax.types import UserError, learns

MAPS = [arrays(3, size, size, width, seed=size + width) for size, width in ((8, 4), (4, 5), (4, 6))]
TEACHER = [arrays(*maps.shape, seed=9) for maps in MAPS]


def test_the_references_values(shared):
    check_golden_maps(Golden(shared / "golden").under("losses.npz", "fsp"), flow_loss)


def test_the_matrix_in_numpy():
    first, second = MAPS[1], MAPS[2]
    expected = np.zeros((3, 5, 6))
    for place in np.ndindex(4, 4):
        expected += first[:, *place, :, None] * second[:, *place, None] / 16
    np.testing.assert_allclose(flow(first, second), expected, rtol=1e-4, atol=1e-6)


def test_the_larger_map_is_pooled():
    pooled = MAPS[0].reshape(3, 4, 2, 4, 2, 4).mean((2, 4))
    np.testing.assert_allclose(flow(MAPS[0], MAPS[1]), flow(pooled, MAPS[1]), rtol=1e-4, atol=1e-6)


def test_what_it_is_blind_to():
    order = np.random.default_rng(0).permutation(16)

    def shuffled(maps):
        return [x.reshape(3, 16, -1)[:, order].reshape(x.shape) for x in maps[1:]]

    check_blind(
        flow_loss,
        MAPS[1:],
        TEACHER[1:],
        (shuffled(MAPS), shuffled(TEACHER)),
        ([x[::-1] for x in MAPS[1:]], [x[::-1] for x in TEACHER[1:]]),
    )


def test_ties_and_zeros():
    check_at_ties(
        lambda student, teacher: flow_loss([student, student], [teacher, teacher]),
        MAPS[0],
        TEACHER[0],
    )


def test_the_first_stage_compares_all_maps_and_the_student_goes_on_from_there():
    method = fsp(kd_temperature=4.0)
    student, teacher = (outputs(None, None, *maps) for maps in (MAPS, TEACHER))
    losses = given_losses(method["warmup"], np.zeros(3, int), student=student, teacher=teacher)
    np.testing.assert_allclose(losses.terms["fsp"], flow_loss(MAPS, TEACHER), rtol=1e-6)
    assert list(method) == ["teacher", "warmup", "student"]
    assert method["student"].nets["student"] == learns("student", "warmup/student")
    assert method["student"].terms == ("ce", "kd")


def test_other_widths_are_told():
    student, teacher = (
        outputs(None, None, *maps) for maps in ((MAPS[0], MAPS[1]), (MAPS[0], MAPS[2]))
    )
    told = r"the student's have \[4, 5\] channels and the teacher's \[4, 6\]"
    with pytest.raises(UserError, match=told):
        given_losses(warmup(), np.zeros(3, int), student=student, teacher=teacher)
