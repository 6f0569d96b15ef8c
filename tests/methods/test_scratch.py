"""Cross-entropy alone."""

import numpy as np

from sskd_jax.losses import cross_entropy
from sskd_jax.methods.scratch import scratch
from sskd_jax.types import Outputs

LOGITS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
LABELS = LOGITS.argmax(1)
LABELS[0] = LOGITS[0].argmin()


def test_cross_entropy_and_accuracy_without_a_teacher():
    student = Outputs(LOGITS, np.zeros((4, 2), np.float32))
    terms, figures = scratch().loss({}, {}, student, None, {"label": LABELS})
    assert terms == {"ce": cross_entropy(LOGITS, LABELS)}
    assert figures == {"accuracy": 0.75}


def test_one_view_and_nothing_else():
    method = scratch()
    assert (method.views, method.teacher, method.pretrain, method.init(None, None, None)) == (
        1,
        False,
        {},
        {},
    )
