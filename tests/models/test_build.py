"""Modules by the names of architectures and nets."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sskd_jax.models import MODELS
from sskd_jax.models.build import adapted, architecture, build
from sskd_jax.models.network import Branches
from sskd_jax.models.resnet import ResNet
from sskd_jax.types import Outputs, UserError
from sskd_jax.views import Optics, normalise

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
    assert build("teacher", "", "wrn_16_2", 7, jnp.bfloat16) == expected


def test_branches_of_a_net():
    expected = Branches(MODELS["resnet8"](num_classes=7))
    assert build("student", "branches", "resnet8", 7) == expected


def test_a_network_may_see_pixels_by_a_mean_and_deviation_of_its_own():
    data = Optics(False, 0, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    section = {"mean": (0.1, 0.2, 0.3), "std": ()}
    own = data.own(section)
    assert own == Optics(False, 0, (0.1, 0.2, 0.3), (0.2, 0.3, 0.4))
    module, key = Tiny(), jax.random.key(0)
    taught = adapted(module, data, section)
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    variables = taught.init(key, normalise(image, data))
    found = taught.apply(variables, normalise(image, data)).logits
    expected = module.apply(variables, normalise(image, own)).logits
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - module.apply(variables, normalise(image, data)).logits).max() > 1e-3
    assert taught.dtype == jnp.float32 and hash(taught) == hash(adapted(Tiny(), data, section))


def test_the_datas_mean_and_deviation_leave_nothing_to_do():
    data = Optics(True, 4, (0.5,) * 3, (0.2,) * 3)
    assert adapted(module := Tiny(), data, {"mean": [0.5] * 3}) is module


def test_a_network_may_see_images_of_a_size_of_its_own():
    """Bilinear: between two pixels, a quarter and three quarters of the way, and flat outside.

    Antialiased: where two pixels become one, it has a part of those next to them, too.
    """
    optics = Optics(False, 0, (0.0,) * 3, (1.0,) * 3)
    row = jnp.asarray([0.0, 1.0])
    pixels = jnp.broadcast_to(row[None, None, :, None], (5, 2, 2, 3))
    taught = adapted(Tiny(), optics, {"size": 4})
    expected = np.broadcast_to(np.float32([0, 0.25, 0.75, 1])[None, None, :, None], (5, 4, 4, 3))
    np.testing.assert_allclose(taught.own(pixels), expected, atol=1e-6)
    variables = taught.init(jax.random.key(0), pixels)
    found = taught.apply(variables, pixels).logits
    np.testing.assert_allclose(found, Tiny().apply(variables, expected).logits, atol=1e-5)
    pixels = jnp.broadcast_to(jnp.eye(4)[2][None, None, :, None], (5, 4, 4, 3))
    smaller = adapted(Tiny(), optics, {"size": 2}).own(pixels)
    expected = np.broadcast_to(np.float32([1 / 7, 3 / 7])[None, None, :, None], (5, 2, 2, 3))
    np.testing.assert_allclose(smaller, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("section", "part", "name", "text"),
    [
        ("teacher", "branch", "resnet8", "unknown part of the teacher architecture 'branch': did"),
        ("student", "branches", "flat", "the student architecture 'flat' has no stages to branch"),
    ],
)
def test_a_wrong_part_is_one_line(section, part, name, text, monkeypatch):
    monkeypatch.setitem(MODELS, "flat", Flat)
    with pytest.raises(UserError, match=text):
        build(section, part, name, 7)
