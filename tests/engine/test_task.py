"""Networks that several programs hold are traced once."""

from functools import partial

import jax
import jax.numpy as jnp

from sskd_jax.engine.task import traced_once
from sskd_jax.models.resnet import ResNet

Tiny = partial(ResNet, num_classes=3, widths=(8, 8, 16))
IMAGE = jnp.zeros((2, 8, 8, 3))


def test_equal_networks_are_traced_once():
    one, other = Tiny(blocks=(1, 1)), Tiny(blocks=(1, 1))
    assert traced_once(one, "init") is traced_once(other, "init")
    assert traced_once(one, "init") is not traced_once(Tiny(blocks=(1, 2)), "init")


def test_a_network_with_a_list_among_its_attributes_is_traced_as_well():
    found = jax.eval_shape(traced_once(Tiny(blocks=[1, 1]), "init"), jax.random.key(0), IMAGE)
    expected = jax.eval_shape(Tiny(blocks=(1, 1)).init, jax.random.key(0), IMAGE)
    assert found == expected
