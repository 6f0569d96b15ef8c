import jax
import numpy as np
from golden import Golden
from pairs import arrays, check_at_ties, check_blind, check_golden_maps

from sskd_jax.methods.ft import factor_loss, ft
from sskd_jax.types import Outputs

STUDENT, TEACHER = arrays(3, 4, 4, 5), arrays(3, 4, 4, 7, seed=1)


def outputs(maps):
    return Outputs(arrays(3, 2), arrays(3, 5), (maps,), (maps,))


def test_the_references_values(shared):
    check_golden_maps(Golden(shared / "golden").under("losses.npz", "ft_factor"), factor_loss)


def test_what_it_is_blind_to():
    order = np.random.default_rng(0).permutation(5)
    check_blind(
        factor_loss,
        STUDENT,
        TEACHER,
        (3 * STUDENT, TEACHER / 2),
        (-STUDENT, TEACHER),
        (STUDENT[..., order], TEACHER),
        (STUDENT[::-1], TEACHER[::-1]),
    )


def test_ties_and_zeros():
    check_at_ties(factor_loss, STUDENT, TEACHER)


def test_the_paraphraser_learns_to_reconstruct():
    stage = ft(factor_ratio=0.5, kd_temperature=4.0).pretrain["paraphraser"]
    teacher = outputs(np.abs(TEACHER))
    params = stage.init(jax.random.key(0), None, teacher)
    losses, gradient = (
        [],
        jax.jit(
            jax.value_and_grad(
                lambda params: stage.loss(params, {}, None, teacher, {})[0]["reconstruction"]
            )
        ),
    )
    for _ in range(60):
        loss, grads = gradient(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
    assert params["encoder"]["Convolution_2"]["conv"]["kernel"].shape == (
        3,
        3,
        3,
        3,
    )  # half of 7 channels, cut to 3


def test_the_translator_imitates_the_factors_and_the_paraphraser_stays():
    method, student, teacher = (
        ft(factor_ratio=0.5, kd_temperature=4.0),
        outputs(STUDENT),
        outputs(TEACHER),
    )
    params = method.init(jax.random.key(0), student, teacher)
    pretrained = {
        "paraphraser": method.pretrain["paraphraser"].init(jax.random.key(1), None, teacher)
    }
    assert set(params) == {"translator"}

    def term(student):
        return method.loss(params, pretrained, student, teacher, {"label": np.zeros(3, int)})[0][
            "ft"
        ]

    assert 0 < term(student) < 1
    np.testing.assert_allclose(
        term(outputs(2 * STUDENT)), term(student), rtol=0.05
    )  # the batch norm of the translator
