"""What most methods have in common: terms of their own beside cross-entropy and Hinton's KD, as RepDistiller has it.

Their papers' losses are `ce` + weight * own; "+kd" gives the term `kd` a weight that is not 0.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sskd_jax.losses import accuracy, cross_entropy, soft_divergence
from sskd_jax.types import Array, Batch, Method, Outputs, Params, Terms

Own = Callable[[Params, Outputs, Outputs, Batch], Array]


def beside(
    own: Mapping[str, Own],
    *,
    kd_temperature: float,
    init: Callable[..., Params] = lambda key, student, teacher: {},
    **more: Any,
) -> Method:
    """The method whose terms are ce, kd and its `own`.

    Args:
      own: every term by name: (params, student, teacher, batch) -> the unweighted term []. `params` also hold what was
        learned in the method's own stages, by the stages' names.
      kd_temperature: of `kd`.
      init: of the method's own parameters.
      more: other attributes of the `Method`.
    """

    def loss(
        params: Params, pretrained: Params, student: Outputs, teacher: Outputs, batch: Batch
    ) -> tuple[Terms, Terms]:
        terms = {
            "ce": cross_entropy(student.logits, batch["label"]),
            "kd": soft_divergence(student.logits, teacher.logits, temperature=kd_temperature),
        }
        terms |= {
            name: term({**params, **pretrained}, student, teacher, batch)
            for name, term in own.items()
        }
        return terms, {"accuracy": accuracy(student.logits, batch["label"])}

    return Method(terms=("ce", "kd", *own), init=init, loss=loss, **more)
