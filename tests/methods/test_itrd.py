"""Information theoretic representation distillation against its authors' values."""

from functools import partial

import jax
import numpy as np
import pytest
from golden import Golden, assert_near
from pairs import arrays, check_at_ties, check_blind, given_losses, outputs

from sskd_jax.methods.itrd import correlation_loss, itrd, mutual_loss


@pytest.mark.parametrize("alpha", ["1.5", "1.01"])
@pytest.mark.parametrize("key", ["itrd", "itrd_same_width"])
def test_the_authors_values(shared, key, alpha):
    """Where the widths are equal, the term `mutual` does not use the projector."""
    gold = Golden(shared / "golden").under("losses_recent.npz", key)
    stage = itrd(alpha=float(alpha))["student"]
    module, embed, teacher = stage.nets["projector"].module, gold["in/student"], gold["in/teacher"]
    linear = {"kernel": gold["param/weight"].T, "bias": gold["param/bias"]}
    params = jax.eval_shape(module.init, jax.random.key(0), embed, teacher)
    params = jax.tree.unflatten(jax.tree.structure(params), [linear["bias"], linear["kernel"]])

    def terms(embed, params):
        nets = {
            "student": outputs(None, embed),
            "teacher": outputs(None, teacher),
            "projector": partial(module.apply, params),
        }
        return given_losses(stage, np.zeros(16, int), **nets).terms

    for term, place in (("correlation", f"alpha{alpha}/"), ("mutual", "")):
        found = jax.jit(jax.value_and_grad(lambda *args: terms(*args)[term], (0, 1)))  # noqa: B023
        value, (of_embed, of_params) = found(embed, params)
        np.testing.assert_allclose(value, gold[f"{place}{term}"], rtol=1e-4)
        assert_near(of_embed, gold[f"{place}grad_{term}/student"], 1e-4)
        bias, kernel = jax.tree.leaves(of_params)
        if f"{place}grad_{term}/weight" in gold:
            assert_near(kernel.T, gold[f"{place}grad_{term}/weight"], 1e-4)
        if f"{place}grad_{term}/bias" in gold:
            assert_near(bias, gold[f"{place}grad_{term}/bias"], 1e-4)
        else:
            assert np.abs(bias).max() < 1e-6 * max(1, np.abs(kernel).max())


@pytest.mark.parametrize("loss", [partial(correlation_loss, alpha=1.01), mutual_loss])
def test_what_it_is_blind_to_and_ties(loss):
    student, teacher = arrays(6, 5), arrays(6, 5, seed=1)
    check_blind(
        loss, student, teacher, (3 * student, 0.2 * teacher), (student[::-1], teacher[::-1])
    )
    check_at_ties(loss, student, teacher)
