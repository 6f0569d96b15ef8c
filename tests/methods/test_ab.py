import jax
import jax.numpy as jnp
import numpy as np
from golden import Golden
from pairs import arrays, check_at_ties, check_blind, check_golden_maps

from sskd_jax.methods.ab import boundary_loss, connectors, transfer_loss
from sskd_jax.types import Outputs

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
        [(2, 8, 8, 4), (2, 8, 8, 4), (2, 8, 8, 4), (2, 4, 4, 6)],
        [(2, 8, 8, 9), (2, 8, 8, 4), (2, 8, 8, 6), (2, 8, 8, 6)],
    )
    student, teacher = (
        Outputs(jnp.zeros(()), jnp.zeros(()), (), tuple(map(jnp.zeros, maps))) for maps in shapes
    )
    made = connectors(student, teacher)
    assert set(made) == {"1", "2"}
    for place, (module, features) in made.items():
        found = jax.eval_shape(module.init_with_output, jax.random.key(0), features)[0]
        assert found.shape == teacher.preacts[int(place) + 1].shape
