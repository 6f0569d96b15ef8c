"""Decoupling Representation and Classifier for Long-Tailed Recognition (Kang et al., ICLR 2020).

A network is trained on the labels. Then, on class-balanced images, its classifier is trained again
from random weights (cRT), or a factor is learned for each class's logit (LWS). The network with
that classifier is the result.
"""

import jax.numpy as jnp

from sskd_jax.layers.heads import Projector
from sskd_jax.methods.common import labelled, supervised
from sskd_jax.methods.long_tail import (
    Classifier,
    Scales,
    balanced,
    classifier_of,
    frequency_scores,
    with_classifier,
)
from sskd_jax.rules import Flag
from sskd_jax.types import Batch, Losses, Method, Nets, Params, Stage, frozen, learns, made
from sskd_jax.views import once


def rescaled(params: Params) -> Params:
    """The params in which the net `classifier` is the student with rescaled logits."""
    scale = params["head"]["scale"]
    kernel, bias = classifier_of(params["student"], scale.size)
    scaled = Classifier(scale[None] * kernel, None if bias is None else scale * bias)
    return {**params, "classifier": with_classifier(params["classifier"], scaled)}


def retrained(params: Params) -> Params:
    """The params in which the net `classifier` is the student with another classifier.

    If the student's has no bias, the other one's stays 0.
    """
    layer = params["head"]["to_target"]["linear"]
    if classifier_of(params["classifier"], layer["bias"].size).bias is None:
        layer = {**layer, "bias": jnp.zeros_like(layer["bias"])}
    network = with_classifier(params["classifier"], Classifier(**layer))
    return {**params, "head": {"to_target": {"linear": layer}}, "classifier": network}


def decoupled(*, rescale: Flag) -> Method:
    """The second stage learns factors with `rescale` (LWS), and a new classifier without (cRT)."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        student, head = nets["student"](batch.see(once)), nets["head"]
        logits = head(student.logits) if rescale else head(student.embed, student.logits)
        return labelled(logits, batch)

    student = supervised("student")._replace(scores=frequency_scores("student"))
    classifier = Stage(
        ("ce",),
        {
            "student": frozen("student", "student/student"),
            "classifier": made("student", "student/student"),
            "head": learns(Scales() if rescale else Projector()),
        },
        loss,
        frequency_scores("classifier"),
        order=balanced,
        tied=rescaled if rescale else retrained,
    )
    return {"student": student, "classifier": classifier}
