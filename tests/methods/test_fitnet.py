import jax
import numpy as np
from pairs import arrays, check_at_ties, check_blind, check_golden

from sskd_jax.methods.fitnet import fitnet, hint_loss
from sskd_jax.types import Outputs

STUDENT, TEACHER = arrays(3, 4, 4, 5), arrays(3, 4, 4, 5, seed=1)


def test_the_references_values(shared):
    check_golden(shared, "fitnet", hint_loss)


def test_what_it_is_blind_to():
    order = np.random.default_rng(0).permutation(5)
    check_blind(
        hint_loss,
        STUDENT,
        TEACHER,
        (STUDENT[..., order], TEACHER[..., order]),
        (STUDENT[::-1], TEACHER[::-1]),
        (STUDENT + 1, TEACHER + 1),
        (STUDENT[:, ::-1], TEACHER[:, ::-1]),
    )


def test_ties_and_zeros():
    check_at_ties(hint_loss, STUDENT, TEACHER)


def test_the_regressed_map_is_behind_a_relu():
    method = fitnet(layer=0, kd_temperature=4.0)
    student, teacher = (
        Outputs(np.zeros((3, 2)), np.zeros((3, 2)), (maps,)) for maps in (STUDENT, -np.abs(TEACHER))
    )
    params = method.init(jax.random.key(0), student, teacher)
    params["regressor"]["norm"]["bias"] -= 100
    terms, _ = method.loss(params, {}, student, teacher, {"label": np.zeros(3, int)})
    np.testing.assert_allclose(terms["hint"], np.mean(TEACHER**2), rtol=1e-5)
