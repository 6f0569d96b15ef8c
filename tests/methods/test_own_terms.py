"""What a method's own terms are given: which maps, temperatures and weights.

The equations themselves are tested beside, one file per method.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pairs import arrays, given_losses, outputs

from sskd_jax.losses import soft_divergence
from sskd_jax.methods import METHODS
from sskd_jax.methods.at import attention_loss
from sskd_jax.methods.dist import relations
from sskd_jax.methods.ft import factor_loss
from sskd_jax.methods.kdsvd import svd_loss
from sskd_jax.methods.nst import discrepancy
from sskd_jax.methods.pkt import transfer_loss
from sskd_jax.methods.rkd import angles, distances, huber
from sskd_jax.methods.sp import similarity_loss
from sskd_jax.types import Outputs

LABEL = np.array([0, 1, 2, 0])


def network(seed: int) -> Outputs:
    """Logits, embeddings and three maps, all different; of other numbers before the ReLU."""
    maps = [arrays(4, size, size, 3, seed=seed + i) for i, size in enumerate((4, 4, 2), 1)]
    before = [arrays(*one.shape, seed=seed + 9) for one in maps]
    made = outputs(arrays(4, 5, seed=seed), arrays(4, 6, seed=seed + 5), *maps)
    return made._replace(preacts=tuple(before))


STUDENT, TEACHER = network(0), network(20)
PAIRS = list(zip(STUDENT.maps, TEACHER.maps, strict=True))
EMBEDS = STUDENT.embed, TEACHER.embed


def own_terms(method: str, numbers: Mapping[str, Any], **nets: Any) -> Mapping[str, Any]:
    stage = METHODS[method](**numbers)["student"]
    return given_losses(stage, LABEL, student=STUDENT, teacher=TEACHER, **nets).terms


def summed(equation: Callable[..., Any], pairs: Sequence[Any]) -> Any:
    return sum(equation(*pair) for pair in pairs)


def weighted_relations(distance: float, angle: float) -> Any:
    distance_loss = huber(*map(distances, EMBEDS))
    return distance * distance_loss + angle * huber(*map(angles, EMBEDS, EMBEDS))


@pytest.mark.parametrize(
    ("method", "numbers", "term", "expected"),
    [
        ("at", {}, "at", summed(attention_loss, PAIRS[1:])),
        ("nst", {}, "nst", summed(discrepancy, PAIRS[1:])),
        ("sp", {}, "sp", similarity_loss(*PAIRS[-1])),
        ("pkt", {}, "pkt", transfer_loss(*EMBEDS)),
        ("kdsvd", {"count": 1}, "svd", svd_loss(STUDENT.maps[1:], TEACHER.maps[1:], 1)),
        (
            "rkd",
            {"distance_weight": 25.0, "angle_weight": 3.0},
            "rkd",
            weighted_relations(25.0, 3.0),
        ),
    ],
)
def test_a_term_beside_kd(method, numbers, term, expected):
    terms = own_terms(method, {**numbers, "kd_temperature": 3.0})
    np.testing.assert_allclose(terms[term], expected, rtol=1e-5)
    kd = soft_divergence(STUDENT.logits, TEACHER.logits, temperature=3.0)
    np.testing.assert_allclose(terms["kd"], kd, rtol=1e-5)


def test_dist():
    terms = own_terms("dist", {"temperature": 3.0, "standardize": False, "shift": False})
    expected = relations(STUDENT.logits, TEACHER.logits, 3.0)
    np.testing.assert_allclose([terms["inter"], terms["intra"]], expected, rtol=1e-5)


def test_ft():
    """With a paraphraser that leaves a map as it is, and such a translator."""
    numbers = {"factor_ratio": 0.5, "kd_temperature": 3.0}
    nets = {"paraphraser": lambda theirs: theirs, "translator": lambda ours, target: ours}
    terms = own_terms("ft", numbers, **nets)
    np.testing.assert_allclose(terms["ft"], factor_loss(*PAIRS[-1]), rtol=1e-5)


def test_a_student_that_was_warmed_up():
    terms = own_terms("fsp", {"kd_temperature": 3.0})
    kd = soft_divergence(STUDENT.logits, TEACHER.logits, temperature=3.0)
    np.testing.assert_allclose(terms["kd"], kd, rtol=1e-5)
