"""Factor transfer against the reference's values, and how its three nets work together."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import linen as nn
from golden import Golden
from pairs import (
    arrays,
    check_at_ties,
    check_blind,
    check_golden_maps,
    given_losses,
    outputs,
)

from sskd_jax.methods.ft import factor_loss, ft, paraphraser
from sskd_jax.types import frozen

STUDENT, TEACHER = arrays(3, 4, 4, 5), arrays(3, 4, 4, 7, seed=1)
LABEL = np.zeros(3, int)
OWN = ("paraphraser", "decoder")


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


@pytest.fixture(scope="module")
def modules() -> dict[str, tuple[nn.Module, dict]]:
    """The modules of its own, each with its first parameters."""
    method = ft(factor_ratio=0.5, kd_temperature=4.0)
    paraphraser, decoder = (method["paraphraser"].nets[name].module for name in OWN)
    translator = method["student"].nets["translator"].module
    assert method["student"].nets["paraphraser"] == frozen(paraphraser, "paraphraser/paraphraser")

    @jax.jit
    def begin(key):
        factors, first = paraphraser.init_with_output(key, TEACHER)
        return first, decoder.init(key, factors, TEACHER), translator.init(key, STUDENT, factors)

    made = zip((paraphraser, decoder, translator), begin(jax.random.key(0)), strict=True)
    return dict(zip((*OWN, "translator"), made, strict=True))


def test_the_modules_are_as_wide_as_the_references(modules):
    """There are 3 factors: half of the teacher's 7 channels, cut."""
    widths = {
        "paraphraser": [(7, 7), (7, 3), (3, 3)],
        "decoder": [(3, 3), (3, 7), (7, 7)],
        "translator": [(5, 5), (5, 3), (3, 3)],
    }
    for name, (_, variables) in modules.items():
        kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4]
        assert [kernel.shape for kernel in kernels] == [(3, 3, *pair) for pair in widths[name]]
        if name == "decoder":  # whose reference is of transposed convolutions
            for kernel in kernels:
                bound = (9 * kernel.shape[-1]) ** -0.5
                assert 0.9 * bound < np.abs(kernel).max() <= bound


def test_the_paraphraser_learns_to_reconstruct(modules):
    stage, teacher = paraphraser(0.5), outputs(None, None, np.abs(TEACHER))

    @jax.jit
    @jax.value_and_grad
    def reconstruction(variables):
        nets = {name: partial(modules[name][0].apply, variables[name]) for name in OWN}
        return given_losses(stage, LABEL, teacher=teacher, **nets).terms["reconstruction"]

    variables, losses = {name: modules[name][1] for name in OWN}, []
    for _ in range(60):
        loss, gradient = reconstruction(variables)
        variables = jax.tree.map(lambda p, g: p - 0.1 * g, variables, gradient)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_the_translator_imitates_the_factors_and_the_paraphraser_stays(modules):
    """The student's stage, with batch norm in the translator by the batch."""
    stage = ft(factor_ratio=0.5, kd_temperature=4.0)["student"]
    assert {name for name, net in stage.nets.items() if net.learns} == {"student", "translator"}
    (factors, given), (module, variables) = modules["paraphraser"], modules["translator"]

    def translator(features, target):
        return module.apply(variables, features, target, train=True, mutable=["batch_stats"])[0]

    @jax.jit
    def term(features):
        nets = {"paraphraser": partial(factors.apply, given), "translator": translator}
        pair = {"student": outputs(None, None, features), "teacher": outputs(None, None, TEACHER)}
        return given_losses(stage, LABEL, **nets, **pair).terms["ft"]

    found = term(STUDENT)
    assert 0 < found < 1
    expected = factor_loss(translator(STUDENT, TEACHER[..., :3]), factors.apply(given, TEACHER))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(term(2 * STUDENT), found, rtol=0.05)
