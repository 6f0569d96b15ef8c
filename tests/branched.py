"""Networks with three branches, whose predictions are those recorded from the reference."""

from typing import Any

import jax
import numpy as np
from golden import assert_near
from pairs import given_losses, outputs

from sskd_jax.methods import hsakd
from sskd_jax.types import Losses, Stage


def recorded(gold: dict[str, np.ndarray], kind: str, net: str = "") -> hsakd.Predictions:
    """The recorded predictions of a network with three branches, or the gradients by them."""
    return hsakd.Predictions(
        gold[f"{kind}/{net}logits"], tuple(gold[f"{kind}/{net}aux{i}"] for i in range(3))
    )


def as_nets(**predictions: hsakd.Predictions) -> dict[str, Any]:
    """Nets and the nets of their branches, which give these predictions for any input."""
    nets = {name: outputs(own.logits) for name, own in predictions.items()}
    return nets | {f"{name}_branches": own.joint for name, own in predictions.items()}


def value_and_gradient(stage: Stage, label: np.ndarray, given: dict, **learning: Any) -> Any:
    """The losses of a stage, and the gradients of the terms' sum and of ce by `learning`."""

    @jax.jit
    def both(learning: dict) -> tuple[Losses, Any, Any]:
        def losses(learning: dict) -> Losses:
            return given_losses(stage, label, **given, **as_nets(**learning))

        def total(learning: dict) -> jax.Array:
            return sum(losses(learning).terms.values())

        def ce(learning: dict) -> jax.Array:
            return losses(learning).terms["ce"]

        return losses(learning), jax.grad(total)(learning), jax.grad(ce)(learning)

    return both(learning)


def assert_same_predictions(actual: hsakd.Predictions, expected: hsakd.Predictions) -> None:
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_near(one, other, 1e-5)
