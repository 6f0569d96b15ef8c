"""Cross-entropy alone."""

import jax
import numpy as np
from pairs import given_losses, outputs

from sskd_jax.losses import cross_entropy
from sskd_jax.methods.scratch import scratch
from sskd_jax.types import learns
from sskd_jax.views import once

LOGITS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
LABELS = LOGITS.argmax(1)
LABELS[0] = LOGITS[0].argmin()


def test_cross_entropy_and_accuracy_without_a_teacher():
    terms, figures, _ = given_losses(scratch()["student"], LABELS, student=outputs(LOGITS))
    assert terms == {"ce": cross_entropy(LOGITS, LABELS)}
    assert figures == {"accuracy": 0.75}


def test_one_stage_one_network_one_view():
    method, seen = scratch(), []
    assert list(method) == ["student"]
    assert method["student"].nets == {"student": learns("student")}
    assert method["student"].memory is None

    def student(pixels):
        seen.append(pixels)
        return outputs(LOGITS)

    jax.eval_shape(lambda: given_losses(method["student"], LABELS, student=student))
    assert seen == [once]
