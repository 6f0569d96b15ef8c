"""Distilling the Knowledge in a Neural Network (Hinton, Vinyals, Dean 2015)."""

from sskd_jax.losses import accuracy, compared_logits, cross_entropy, soft_divergence
from sskd_jax.types import Batch, Method, Outputs, Params, Terms


def kd(*, temperature: float, standardize: bool) -> Method:
    """Cross-entropy `ce` with the labels and the divergence `kd` from the teacher's softened predictions.

    `standardize` compares standardized logits in place of the logits themselves.
    """

    def loss(
        params: Params, pretrained: Params, student: Outputs, teacher: Outputs, batch: Batch
    ) -> tuple[Terms, Terms]:
        compared = compared_logits(student, teacher, standardize)
        return (
            {
                "ce": cross_entropy(student.logits, batch["label"]),
                "kd": soft_divergence(*compared, temperature=temperature),
            },
            {"accuracy": accuracy(student.logits, batch["label"])},
        )

    return Method(terms=("ce", "kd"), init=lambda key, student, teacher: {}, loss=loss)
