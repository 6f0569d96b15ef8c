"""What networks and their branches start from, as the reference's descriptions have it.

Section 2 of that of SSKD has the networks, section 1.4 of that of HSAKD the branches. The network
of continual learning starts as PyTorch's layers do.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from shapes import shapes

from sskd_jax.models import MODELS, mobilenetv2

FAN_OUT, FAN_IN = "normal by fan-out", "uniform by fan-in"
IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
SMALL = {"blocks": (1, 1), "widths": (8, 32, 64)}


class Start(NamedTuple):
    """How a network and its branches start.

    Attributes:
      name: of the architecture.
      options: what makes it small enough.
      kernel: distribution of the convolutions.
      std: of the linear weights' normal distribution; None for uniform by fan-in.
      zero: whether biases are zero, rather than uniform by fan-in.
    """

    name: str
    options: Mapping[str, Any]
    kernel: str
    std: float | None
    zero: bool


NETWORKS = (
    Start("resnet8x4", {}, FAN_OUT, None, False),
    Start("wrn_16_2", {}, FAN_OUT, None, True),
    Start("vgg8", {}, FAN_OUT, 0.01, True),
    Start("MobileNetV2", {}, FAN_OUT, 0.01, True),
    Start("ShuffleV1", {}, FAN_IN, None, False),
    Start("ShuffleV2", {}, FAN_IN, None, False),
    Start("ResNet18w16", {"blocks": (1, 1, 1, 1)}, FAN_IN, None, False),
)
BRANCHES = (
    Start("resnet8x4", {}, FAN_OUT, None, True),
    Start("ResNet50", SMALL, FAN_OUT, None, False),
    Start("resnet18", SMALL, FAN_OUT, None, False),
    Start("resnet50", SMALL, FAN_OUT, None, False),
    Start("wrn_16_2", {}, FAN_OUT, None, True),
    Start("vgg8", {}, FAN_IN, None, False),
    Start("MobileNetV2", {}, FAN_OUT, 0.01, True),
    Start("ShuffleV1", {}, FAN_OUT, None, True),
    Start("ShuffleV2", {}, FAN_IN, None, False),
)
CASES = [(start, False) for start in NETWORKS] + [(start, True) for start in BRANCHES]


class Begun(NamedTuple):
    """The leaves that every kind of layer starts with, by their names."""

    start: Start
    convs: list[dict[str, np.ndarray]]
    linears: list[dict[str, np.ndarray]]
    norms: list[dict[str, np.ndarray]]


def case_name(case: tuple[Start, bool]) -> str:
    start, has_branches = case
    return start.name + has_branches * ".branches"


@pytest.fixture(scope="module", params=CASES, ids=case_name)
def begun(request) -> Begun:
    start, has_branches = request.param
    network = MODELS[start.name](num_classes=100, **start.options)
    with pytest.MonkeyPatch.context() as patch:
        # More stages of the same take long to compile.
        patch.setattr(mobilenetv2, "STAGES", mobilenetv2.STAGES[:2])
        outputs, _ = shapes(network, (32, 32, 3))
        module, like = (network.branches, outputs.maps) if has_branches else (network, IMAGE)
        inputs = jax.tree.map(lambda x: jnp.zeros(x.shape), like)
        variables = jax.jit(module.init)(jax.random.key(0), inputs)
    found = {"conv": [], "linear": [], "norm": []}
    for layer in by_layer(variables):
        found[kind_of(layer)].append(layer)
    return Begun(start, found["conv"], found["linear"], found["norm"])


def kind_of(layer: dict[str, np.ndarray]) -> str:
    if "kernel" not in layer:
        return "norm"
    return "conv" if layer["kernel"].ndim == 4 else "linear"


def by_layer(variables: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
    """The leaves of every layer, those of both collections together."""
    layers = defaultdict(dict)
    for (_, *modules, name), leaf in flatten_dict(variables).items():
        layers[tuple(modules)][name] = np.asarray(leaf)
    return list(layers.values())


def fan_in(kernel: np.ndarray) -> int:
    """Inputs of one output: [.., in, out] of a linear layer or a convolution."""
    return kernel[..., 0].size


def assert_is_drawn(x: np.ndarray, std: float) -> None:
    """Mean 0 and this standard deviation, as far as the number of entries tells."""
    assert abs(x.std() / std - 1) < 6 / np.sqrt(2 * x.size)
    assert abs(x.mean() / std) < 6 / np.sqrt(x.size)


def assert_is_uniform(x: np.ndarray, bound: float, filled: float = 0.9) -> None:
    """Within the bound, and close to it."""
    assert filled * bound < np.abs(x).max() <= bound * (1 + 1e-6)


def test_convolutions_start_from_the_reference_distribution(begun):
    standardized = []
    for layer in begun.convs:
        kernel = layer["kernel"]
        k, _, _, outputs = kernel.shape
        by_fan_in = np.sqrt(1 / (3 * fan_in(kernel)))
        std = np.sqrt(2 / (k * k * outputs)) if begun.start.kernel == FAN_OUT else by_fan_in
        assert_is_drawn(kernel, std)
        standardized.append(kernel.ravel() / std)
    everything = np.concatenate(standardized)
    if begun.start.kernel == FAN_OUT:
        assert 4 < np.abs(everything).max() < 8
    else:
        assert_is_uniform(everything, np.sqrt(3), 0.999)


def test_linear_layers_start_from_the_reference_distribution(begun):
    assert begun.linears
    for layer in begun.linears:
        kernel, std = layer["kernel"], begun.start.std
        bound = fan_in(kernel) ** -0.5
        assert_is_drawn(kernel, std or bound / np.sqrt(3))
        if std:
            assert np.abs(kernel).max() > 3 * std
        else:
            assert_is_uniform(kernel, bound, 0.99)


def test_biases_start_from_the_reference_distribution(begun):
    layers = [layer for layer in (*begun.convs, *begun.linears) if "bias" in layer]
    for layer in layers:
        if begun.start.zero:
            assert not layer["bias"].any()
        else:
            assert_is_uniform(layer["bias"], fan_in(layer["kernel"]) ** -0.5)
    has_conv_biases = len(layers) > len(begun.linears)
    assert has_conv_biases == begun.start.name.startswith("vgg")


def test_batch_norms_start_neutral(begun):
    values = {"scale": 1, "var": 1, "mean": 0, "bias": 0}
    assert begun.norms
    for layer in begun.norms:
        assert set(layer) == set(values)
        assert all((leaf == values[name]).all() for name, leaf in layer.items())


def test_layers_of_one_shape_start_differently(begun):
    kernels = [layer["kernel"].tobytes() for layer in begun.convs]
    assert len(set(kernels)) == len(kernels) > 3
