"""What a config costs: rows that its networks see, and operations, by hand."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import methods
from experiments import cost, protocol
from sskd_jax.models.build import Adapted
from sskd_jax.models.resnet import ResNet

KD, SSKD, SCRATCH, DOT = (
    f"configs/cifar.py:method={name}" for name in ("kd", "sskd", "scratch", "dot")
)


def described(name: str, changes: Mapping[str, Any] = {}) -> dict:
    """The protocol of what a config ends with."""
    config = protocol.as_json(protocol.load(name, changes))
    return protocol.describe(config, protocol.last_stage(config))


@pytest.mark.parametrize("kind", ["network", "branches", "adapted"])
def test_conversions_to_another_dtype_do_not_count(kind):
    sizes = {"num_classes": 10, "blocks": (1, 1), "widths": (8, 8, 16)}
    nets = [ResNet(**sizes, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16)]
    given = np.zeros((1, 8, 8, 3), np.float32)
    if kind == "branches":
        outputs, _ = jax.eval_shape(nets[0].init_with_output, jax.random.key(0), given)
        nets, given = [net.branches for net in nets], outputs.maps
    if kind == "adapted":
        nets = [Adapted(net, scale=(2.0,) * 3, shift=(1.0,) * 3) for net in nets]
    expected, found = (cost.forward_operations(net, (given,), {}) for net in nets)
    assert found == expected > 0


def test_views_and_costs():
    """A student's step costs three forward passes of it and one of its teacher, per view."""
    student, teacher = (cost.forward(name, "", 32, 100) for name in ("wrn_16_2", "wrn_40_2"))
    seen = 240 * (50_000 // 64) * 64  # of an epoch, whole batches
    assert described(SCRATCH)["views"] == described(KD)["views"] == 1
    assert described(SSKD)["views"] == 4
    assert described(SCRATCH)["teraflop"] == pytest.approx(seen * 3 * student / 1e12, abs=1e-3)
    kd = seen * (3 * student + teacher) / 1e12
    assert described(KD)["teraflop"] == pytest.approx(kd, abs=1e-3)
    dot = seen * (5 * student + teacher) / 1e12  # goes back twice
    assert described(DOT)["teraflop"] == pytest.approx(dot, abs=1e-3)
    head = 4 * 60 * (50_000 // 64) * 64 * teacher / 1e12
    assert described(SSKD)["teraflop"] == pytest.approx(4 * kd + head, abs=2e-3)
    half = described(KD, {"student.images.share": 0.5})["teraflop"]
    assert half == pytest.approx(kd / 2, rel=0.01)
    tail = described(KD, {"student.images.imbalance": 100})["teraflop"]
    assert tail == pytest.approx(kd * 10_847 / 50_000, rel=0.01)


def test_stored_images_count_as_views():
    """What a step draws from a buffer, and what it turns, runs through the network as well."""
    stream = "configs/continual.py:dataset=cifar100,student=resnet8,epochs=3,method="
    views = {name: described(stream + name) for name in ("finetune", "coca")}
    assert [told["views"] for told in views.values()] == [1, 5]
    # An epoch visits the images of its task alone.
    seen, own = 30 * (5000 // 32) * 32, cost.forward("resnet8", "", 32, 100)
    assert views["finetune"]["teraflop"] == pytest.approx(seen * 3 * own / 1e12, abs=1e-3)
    assert views["coca"]["teraflop"] == pytest.approx(5 * seen * 3 * own / 1e12, abs=1e-3)


def test_every_method_has_views_and_costs():
    """Else its runs could be trained, and not be recorded."""
    views = {}
    for name in methods.METHODS:
        told = described(f"configs/cifar.py:teacher=resnet20,student=resnet8,method={name}")
        assert told["teraflop"] > 0
        views[name] = told["views"]
    assert (views["ctkd"], views["mlkd"], views["hssakd"], views["coca"]) == (1, 2, 4, 3.5)
