"""Nets as functions: equal networks are traced once, and their outputs are float32."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from tiny import make_frozen, make_task, start_state

from sskd_jax.engine.task import net_functions, traced_once
from sskd_jax.methods.common import supervised
from sskd_jax.models.resnet import ResNet
from sskd_jax.types import Outputs

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


class Coarse(nn.Module):
    """A network that computes all in bfloat16, as a user's own may."""

    @nn.compact
    def __call__(self, image, train=False):
        embed = image.mean((1, 2)).astype(jnp.bfloat16)
        return Outputs(nn.Dense(10, dtype=jnp.bfloat16)(embed), embed)


def test_losses_and_scores_are_given_float32():
    found, stage = [], supervised("student")

    def loss(nets, batch):
        def student(pixels):
            found.append(nets["student"](pixels))
            return found[-1]

        return stage.loss({"student": student}, batch)

    task = make_task(stage._replace(loss=loss))._replace(modules={"student": Coarse()})
    variables = start_state(task, make_frozen(task)).variables
    assert found  # in the trace before training
    for dropout in (None, jax.random.key(0)):
        nets, _ = net_functions(task, variables, dropout)
        found.append(nets["student"](IMAGE))
    assert {leaf.dtype for outputs in found for leaf in (outputs.logits, outputs.embed)} == {
        jnp.dtype("float32")
    }
