"""Modules by the names of architectures and nets."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from sskd_jax.models import MODELS
from sskd_jax.models.build import architecture, build
from sskd_jax.models.network import Branches
from sskd_jax.models.resnet import ResNet
from sskd_jax.types import Outputs, UserError

Tiny = partial(ResNet, num_classes=3, blocks=(1, 1), widths=(8, 8, 16))
NAMES = {"student": "resnet8", "teacher": "wrn_16_2"}


class Flat(nn.Module):
    """A network without stages."""

    num_classes: int
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> Outputs:
        embed = image.mean((1, 2))
        return Outputs(nn.Dense(self.num_classes)(embed), embed)


def test_an_architecture_by_its_name():
    assert architecture("resnet8") is MODELS["resnet8"]


def test_an_unknown_architecture_is_told_with_near_names():
    text = (
        "unknown student architecture 'resnet57': did you mean 'resnet56'[?] choose from resnet8, "
    )
    with pytest.raises(UserError, match=text):
        architecture("resnet57", "student architecture")


def test_a_net_is_the_architecture_of_its_section():
    expected = MODELS["wrn_16_2"](num_classes=7, dtype=jnp.bfloat16)
    assert build("teacher", NAMES, 7, jnp.bfloat16) == expected


def test_branches_of_a_net():
    expected = Branches(MODELS["resnet8"](num_classes=7))
    assert build("student.branches", NAMES, 7) == expected


@pytest.mark.parametrize(
    ("net", "text"),
    [
        ("peer", "unknown network 'peer': choose from student, teacher"),
        ("teacher.branch", "unknown part of the teacher architecture 'branch': did you mean"),
        ("student.branches", "the student architecture 'flat' has no stages to branch"),
    ],
)
def test_a_wrong_net_is_one_line(net, text, monkeypatch):
    monkeypatch.setitem(MODELS, "flat", Flat)
    with pytest.raises(UserError, match=text):
        build(net, NAMES | {"student": "flat"}, 7)
