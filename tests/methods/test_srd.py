"""A simple recipe for distillation against its authors' values."""

from functools import partial

import jax
import numpy as np
from golden import Golden, assert_near
from pairs import arrays, check_at_ties, check_blind, given_losses, outputs

from sskd_jax.methods.srd import representation_loss, srd


def test_the_authors_values(shared):
    gold = Golden(shared / "golden").under("losses_recent.npz", "srd")
    stage = srd(kd_temperature=1.0)["student"]
    module, teacher = stage.nets["projector"].module, gold["in/teacher"]
    linear = {"kernel": gold["param/weight"].T, "bias": gold["param/bias"]}
    shapes = jax.eval_shape(module.init, jax.random.key(0), gold["in/student"], teacher)
    params = jax.tree.unflatten(jax.tree.structure(shapes), [linear["bias"], linear["kernel"]])

    def terms(embed, params, logits):
        nets = {
            "student": outputs(logits, embed),
            "teacher": outputs(gold["in/teacher_logits"], teacher),
            "projector": partial(module.apply, params),
        }
        return given_losses(stage, gold["in/label"], **nets).terms

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def loss(*args):
        found = terms(*args)
        return found["ce"] + 2 * found["representation"] + found["kd"], found

    (value, found), gradients = loss(gold["in/student"], params, gold["in/student_logits"])
    np.testing.assert_allclose(value, gold["loss"], rtol=1e-4)
    np.testing.assert_allclose(found["representation"], gold["representation"], rtol=1e-4)
    np.testing.assert_allclose(found["kd"], gold["logit"], rtol=1e-4)
    of_embed, of_params, of_logits = gradients
    assert_near(of_embed, 2 * gold["grad_representation/student"], 1e-4)
    assert_near(jax.tree.leaves(of_params)[1].T, 2 * gold["grad_representation/weight"], 1e-4)
    assert_near(of_logits, gold["grad_loss/student_logits"], 1e-4)


def test_what_it_is_blind_to_and_ties():
    student, teacher = 10 * arrays(6, 5), 10 * arrays(6, 5, seed=1)
    check_blind(
        representation_loss,
        student,
        teacher,
        (student + 3, teacher - 1),
        (student[::-1], teacher[::-1]),
        (2 * student, 3 * teacher),
    )
    check_at_ties(representation_loss, student, teacher)
