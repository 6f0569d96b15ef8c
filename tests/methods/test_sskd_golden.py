"""SSKD's losses, gradients, similarities and selected rows against the reference's values."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, assert_near
from pairs import given_losses

from sskd_jax.methods import sskd
from sskd_jax.types import Outputs

CASES = ["sskd_default", "sskd_half", "sskd_none_wrong", "sskd_all"]
WEIGHTS = {"ce": 0.1, "kd": 0.9, "tf": 2.7, "ss": 10.0}
TEMPERATURES = {
    "kd_temperature": 4.0,
    "tf_temperature": 4.0,
    "ss_temperature": 0.5,
    "head_temperature": 1.0,
}


@pytest.fixture(scope="module", params=CASES)
def case(request, shared) -> dict[str, np.ndarray]:
    return Golden(shared / "golden").under("losses.npz", request.param)


@pytest.fixture(scope="module")
def ours(case) -> dict[str, Any]:
    """What our code gives for the recorded inputs, which were recorded after the heads."""
    inputs = [
        Outputs(case[f"in/{who}_logits"], case[f"in/{who}_proj"]) for who in ("student", "teacher")
    ]
    ratios = {f"{name}_ratio": float(case[f"ratio_{name}"]) for name in ("tf", "ss")}
    return jax.jit(partial(everything, ratios))(*inputs, case["label"])


def everything(
    ratios: dict[str, float], student: Outputs, teacher: Outputs, label: jax.Array
) -> dict[str, Any]:
    method = sskd.sskd(transformation="rotation", **TEMPERATURES, **ratios)
    given = {"teacher": teacher, "head": lambda embed: embed}

    def total(student: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        nets = {"student": student, "teacher_head": lambda embed: embed, **given}
        values = given_losses(method["student"], label, **nets).terms
        return sum(WEIGHTS[name] * value for name, value in values.items()), values

    (loss, values), gradient = jax.value_and_grad(total, has_aux=True)(student)
    similarity = sskd.similarity_matrix(teacher.embed)
    levels = {
        "ss": sskd.error_level(similarity, sskd.positives(similarity)),
        "tf": sskd.error_level(sskd.split_views(teacher.logits)[1], jnp.repeat(label, 3)),
    }
    head, figures, _ = given_losses(method["head"], label, **given)
    return {
        "terms": values,
        "loss": loss,
        "gradient": gradient,
        "levels": levels,
        "head": head,
        "figures": figures,
        "kept": {
            name: sskd.transferred(level, ratios[f"{name}_ratio"]) for name, level in levels.items()
        },
        "similarities": {"teacher": similarity, "student": sskd.similarity_matrix(student.embed)},
    }


def test_terms_are_the_reference(case, ours):
    assert set(ours["terms"]) == set(WEIGHTS)
    for name, value in ours["terms"].items():
        np.testing.assert_allclose(value, case[name], rtol=1e-4, err_msg=name)


def test_loss_and_gradients_are_the_reference(case, ours):
    np.testing.assert_allclose(ours["loss"], case["loss"], rtol=1e-5)
    assert_near(ours["gradient"].logits, case["grad/student_logits"], 1e-5)
    assert_near(ours["gradient"].embed, case["grad/student_proj"], 1e-4)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_similarity_matrices_are_the_reference(who, case, ours):
    assert_near(ours["similarities"][who], case[f"{who}_similarity"], 1e-5)


@pytest.mark.parametrize("name", ["tf", "ss"])
def test_ranks_and_kept_rows_are_the_reference(name, case, ours):
    np.testing.assert_array_equal(ours["levels"][name], case[f"rank_{name}"])
    np.testing.assert_array_equal(np.flatnonzero(ours["kept"][name]), np.sort(case[f"kept_{name}"]))


def test_the_head_has_the_loss_of_the_reference(case, ours):
    np.testing.assert_allclose(ours["head"]["ss"], case["head_ce"], rtol=1e-5)
    np.testing.assert_allclose(
        ours["figures"]["contrastive"], np.mean(case["rank_ss"] == 0), rtol=1e-6
    )
