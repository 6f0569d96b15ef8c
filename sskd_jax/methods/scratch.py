"""No distillation: cross-entropy with the labels. Trains every teacher, and is the baseline of every student."""

from sskd_jax.losses import accuracy, cross_entropy
from sskd_jax.types import Batch, Method, Outputs, Params, Terms


def scratch() -> Method:
    """-log softmax(logits)[label], on one view of every image."""

    def loss(
        params: Params, pretrained: Params, student: Outputs, teacher: None, batch: Batch
    ) -> tuple[Terms, Terms]:
        return (
            {"ce": cross_entropy(student.logits, batch["label"])},
            {"accuracy": accuracy(student.logits, batch["label"])},
        )

    return Method(terms=("ce",), init=lambda key, student, teacher: {}, loss=loss, teacher=False)
