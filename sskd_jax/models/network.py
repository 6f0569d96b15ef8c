"""Networks of stem, stages, neck and classifier, and branches that are made of the same stages."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers as init
from jax.nn.initializers import Initializer

from sskd_jax.layers.convolution import Conv
from sskd_jax.layers.initializers import bias_uniform, fan_in_uniform
from sskd_jax.layers.norm import BatchNorm
from sskd_jax.layers.pooling import global_mean
from sskd_jax.types import Array, Outputs

Layer = Callable[..., nn.Module]
Pair = tuple[Array, Array]  # a map [B, H, W, C], and the same before its ReLU


def bias_zeros(fan_in: int) -> Initializer:
    """The initializer of a bias that starts at zero, whatever its layer's fan-in."""
    return init.zeros


class Initializers(NamedTuple):
    """The initializers of a network's layers; the defaults are PyTorch's.

    Attributes:
      kernel: of the convolutions.
      weight: of the linear layers.
      bias: fan-in of a layer -> the initializer of its bias, if it has one.
    """

    kernel: Initializer = fan_in_uniform
    weight: Initializer = fan_in_uniform
    bias: Callable[[int], Initializer] = bias_uniform


class Layers(NamedTuple):
    """The layers of which a forward pass is built.

    Attributes:
      conv: (features, kernel, stride, ..., name=) -> a convolution [B, H, W, C].
      norm: (name=) -> a batch norm.
      linear: (features, fan-in, name, whether it has a bias) -> a linear layer [B, D], in float32.
      bias: fan-in -> the initializer of a convolution's bias, if it has one.
    """

    conv: Layer
    norm: Layer
    linear: Layer
    bias: Callable[[int], Initializer]


def make_layers(start: Initializers, dtype: Any, train: bool) -> Layers:
    """Layers with these initializers, whose convolutions compute in `dtype`."""

    def linear(features: int, fan_in: int, name: str, use_bias: bool = True) -> nn.Module:
        start_of = {"kernel_init": start.weight, "bias_init": start.bias(fan_in)}
        return nn.Dense(features, use_bias, precision="highest", name=name, **start_of)

    conv = partial(Conv, dtype=dtype, kernel_init=start.kernel)
    norm = partial(BatchNorm, train=train, dtype=dtype)
    return Layers(conv, norm, linear, start.bias)


Apply = Callable[[Layers, str, Array], Pair]


class Part(NamedTuple):
    """One of the parts that a network applies one after the other, after its stem.

    Attributes:
      name: the prefix of the names of its parameters in the network; "" if it has none.
      apply: (layers, name, x [B, H, W, C]) -> its map, and the map before its ReLU.
      branch_name: the prefix in a branch, with the number of the branch (from 1 on) and the part's
        position in it (from 0 on).
    """

    name: str
    apply: Apply
    branch_name: str = "block_extractor{branch}.{position}"


def strides(first: int, depth: int) -> list[int]:
    """The strides of a stage's blocks; only the first block may halve the resolution."""
    return [first] + [1] * (depth - 1)


def in_sequence(blocks: Sequence[Layer]) -> Apply:
    """`Part.apply` of residual blocks, numbered from 0 on; its output is that of the last block."""

    def apply(layers: Layers, name: str, x: Array) -> Pair:
        preact = x
        for i, block in enumerate(blocks):
            x, preact = block(conv=layers.conv, norm=layers.norm, name=f"{name}.{i}")(x)
        return x, preact

    return apply


def norm_and_relu(layers: Layers, name: str, x: Array) -> Pair:
    """`Part.apply` of a batch norm and a ReLU."""
    preact = layers.norm(name=name)(x)
    return nn.relu(preact), preact


def apply_parts(parts: Iterable[Part], layers: Layers, x: Array) -> Pair:
    """The map after the last part, and the same before its ReLU."""
    preact = x
    for part in parts:
        x, preact = part.apply(layers, part.name, x)
    return x, preact


class Network(nn.Module):
    """A stem, numbered stages, a neck, global average pooling and a linear classifier.

    A subclass defines these for one architecture. Modules are named as in PyTorch, so a parameter's
    path, joined by dots, is its name in the reference's state_dict. Methods are marked `nowrap`, so
    the layers that they make belong to the module that calls them: the network or its branches.

    Attributes:
      num_classes: K.
      dtype: in which convolutions compute.
    """

    num_classes: int
    dtype: Any = jnp.float32

    classifier = "fc"  # the last layer's name
    classifier_bias = True
    stages = 3  # numbered from 1 on
    initializers = Initializers()
    branch_initializers = Initializers()

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Outputs:
        layers = make_layers(self.initializers, self.dtype, train)
        x, preact = self.stem(layers, image)
        maps, preacts = [x], [preact]
        for number in range(1, self.stages + 1):
            x, preact = apply_parts(self.trunk(number), layers, x)
            maps.append(x)
            preacts.append(preact)
        x, preact = apply_parts(self.neck(), layers, x)
        preacts = self.preactivations([*preacts, preact])
        embed = global_mean(x)
        last = layers.linear(
            self.num_classes, embed.shape[-1], self.classifier, self.classifier_bias
        )
        logits = last(embed)
        return Outputs(logits, embed, tuple(maps), tuple(preacts))

    @nn.nowrap
    def stem(self, layers: Layers, image: Array) -> Pair:
        """The first map of an image [B, H, W, C], and the same before its ReLU."""
        raise NotImplementedError

    @nn.nowrap
    def stage(self, number: int, halve: bool = True) -> list[Part]:
        """The parts of a stage; without `halve`, all strides are 1."""
        raise NotImplementedError

    @nn.nowrap
    def trunk(self, number: int) -> list[Part]:
        """The parts of a stage in the network itself, if they differ from those in branches."""
        return self.stage(number)

    @nn.nowrap
    def neck(self) -> list[Part]:
        """The parts between the last stage and the pooling."""
        return []

    @nn.nowrap
    def preactivations(self, preacts: list[Array]) -> list[Array]:
        """The maps' pre-activations, given those of the stem, the stages and the neck."""
        return preacts[:-1]

    @property
    def taps(self) -> tuple[int, ...]:
        """The indices of the maps with a branch: 0 is the stem's; the last stage's comes last."""
        return tuple(range(1, self.stages + 1))

    @property
    def branches(self) -> "Branches":
        """Classifiers of 4 K joint classes that take the maps."""
        return Branches(self)


class Branches(nn.Module):
    """Auxiliary classifiers of a network's maps (HSAKD, Yang et al. 2021), of 4 K joint classes.

    Branch l = 1 .. L takes the l-th tapped map. It consists of copies of all remaining stages, with
    separate weights, then neck, global average pooling and a linear layer. After the last tapped
    map no stage remains: its branch copies the stages after the tap before it, at stride 1.

    Attributes:
      network: the network whose maps it takes and whose stages it copies, without their weights.
    """

    network: Network

    @property
    def dtype(self) -> Any:
        """The dtype in which convolutions compute."""
        return self.network.dtype

    @nn.compact
    def __call__(self, maps: Sequence[Array], train: bool = False) -> tuple[Array, ...]:
        """Logits f32[B, 4 K] of every branch, given the network's maps, stem first."""
        network = self.network
        layers = make_layers(network.branch_initializers, network.dtype, train)
        logits = []
        for branch, tap in enumerate(network.taps, 1):
            x, _ = apply_parts(branch_parts(network, branch), layers, maps[tap])
            embed = global_mean(x)
            linear = layers.linear(4 * network.num_classes, embed.shape[-1], f"fc{branch}")
            logits.append(linear(embed))
        return tuple(logits)


def branch_parts(network: Network, branch: int) -> list[Part]:
    """The parts of branch 1 .. L between its map and the pooling, with their names there."""
    # A stage has the number of its map, so the first stage after map `tap` is tap + 1. The last
    # branch repeats the stages between the last two taps (the stem's map is number 0).
    taps = (0, *network.taps)
    is_last = branch == len(network.taps)
    tap = taps[-2] if is_last else taps[branch]
    numbers = range(tap + 1, network.stages + 1)
    stages = [network.stage(number, halve=not is_last) for number in numbers]
    parts = [part for parts in (*stages, network.neck()) for part in parts]
    names = [
        part.branch_name.format(branch=branch, position=position)
        for position, part in enumerate(parts)
    ]
    return [part._replace(name=name) for part, name in zip(parts, names, strict=True)]
