"""What most methods have in common: one term of their own beside cross-entropy and Hinton's KD, as RepDistiller has it.

Their papers' losses are `ce` + weight * own; "+kd" gives the term `kd` a weight that is not 0.
"""
from collections.abc import Callable

from sskd_jax.losses import accuracy, cross_entropy, soft_divergence
from sskd_jax.types import Array, Batch, Method, Outputs, Params, Terms

Own = Callable[[Params, Outputs, Outputs, Batch], Array]


def beside(term: str, own: Own, *, kd_temperature: float, gathered: tuple[int, ...] = (),
           init: Callable[[Array, Outputs, Outputs], Params] = lambda key, student, teacher: {}) -> Method:
    """The method whose terms are ce, kd and `term`.

    Args:
      own: (params, student, teacher, batch) -> the unweighted term [].
      kd_temperature: of `kd`.
      gathered: which maps the term must see for the global batch, by their place in `Outputs.maps`.
      init: of the method's own parameters.
    """

    def loss(params: Params, pretrained: Params, student: Outputs, teacher: Outputs,
             batch: Batch) -> tuple[Terms, Terms]:
        terms = {"ce": cross_entropy(student.logits, batch["label"]),
                 "kd": soft_divergence(student.logits, teacher.logits, temperature=kd_temperature),
                 term: own(params, student, teacher, batch)}
        return terms, {"accuracy": accuracy(student.logits, batch["label"])}

    return Method(terms=("ce", "kd", term), init=init, loss=loss, gathered=gathered)
