"""Decoupling Representation and Classifier for Long-Tailed Recognition (Kang et al., ICLR 2020).

A network is trained on the labels. Then, on class-balanced images, its classifier is trained again
from random weights (cRT), or a factor is learned for each class's logit (LWS).
"""

from collections.abc import Mapping
from typing import Any

from sskd_jax.axis import everywhere
from sskd_jax.layers.heads import Projector
from sskd_jax.methods.common import labelled, supervised
from sskd_jax.methods.long_tail import Scales, balanced, by_frequency, frequency_scores
from sskd_jax.rules import Flag
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Stage, frozen, learns
from sskd_jax.views import once


def decoupled(*, rescale: Flag) -> Method:
    """The second stage learns factors with `rescale` (LWS), and a new classifier without (cRT)."""

    def logits_of(nets: Nets, batch: Batch) -> Array:
        student = nets["student"](batch.see(once))
        if rescale:
            return nets["classifier"](student.logits)
        return nets["classifier"](student.embed, student.logits)

    def loss(nets: Nets, batch: Batch) -> Losses:
        return labelled(logits_of(nets, batch), batch)

    def scores(nets: Nets, batch: Batch) -> Mapping[str, Any]:
        return by_frequency(everywhere(logits_of(nets, batch)), batch)

    nets = {
        "student": frozen("student", "student/student"),
        "classifier": learns(Scales() if rescale else Projector()),
    }
    student = supervised("student")._replace(scores=frequency_scores("student"))
    return {"student": student, "classifier": Stage(("ce",), nets, loss, scores, order=balanced)}
