"""No distillation: cross-entropy with the labels, the baseline of every student."""

from sskd_jax.methods.common import supervised
from sskd_jax.types import Method


def scratch() -> Method:
    """-log softmax(logits)[label], on one view of every image."""
    return {"student": supervised("student")}
