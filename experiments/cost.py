"""How many rows the networks of a run see in training, and how many operations that takes.

Both are found from a config alone: losses and networks are traced, and nothing is computed.
"""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sskd_jax.data.scenarios import long_tail
from sskd_jax.models.build import Adapted, architecture
from sskd_jax.models.network import Branches
from sskd_jax.types import Array, Batch, Facts, Net, Stage, View
from sskd_jax.views import Optics
from sskd_jax.workdir.files import Row

# (training images, classes, pixels of a side if the config does not give them) by dataset.
DATASETS = {
    "digits": (1347, 10, 8),
    "cifar10": (50_000, 10, 32),
    "cifar100": (50_000, 100, 32),
    "imagenet2012": (1_281_167, 1000, 224),
}
UNKNOWN = (1000, 10, 32)  # for any other dataset


def views(config: Row, kind: str, stage: Stage) -> float:
    """The most rows that a network of a stage sees per image of a batch, replayed ones included."""
    counts = rows(config, kind, stage)
    most = max(counts[name] for name, net in stage.nets.items() if any(net.place))
    return int(most) if most == int(most) else most


def rows(config: Row, kind: str, stage: Stage) -> dict[str, float]:
    """How many rows each network of a stage sees per image of a batch; 0 for the other nets.

    The stage's loss is traced to count them, with networks whose outputs are zeros.
    """
    data, batch_size = config["data"], config[kind]["batch_size"]
    total, classes, _ = DATASETS.get(data["name"], UNKNOWN)
    shape = (size_of(config),) * 2 + (3,)
    found = dict.fromkeys(stage.nets, 0.0)

    def call(name: str, *args: Any, **kwargs: Any) -> Any:
        network, part = stage.nets[name].place
        if not network:
            module = stage.nets[name].module
            return module.init_with_output(jax.random.key(0), *args, **kwargs)[0]
        count = jax.tree.leaves(args)[0].shape[0]
        found[name] += count / batch_size
        _, _, one = outline(config[network]["model"], part, size_of(config, network), classes)
        return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape[1:]), leaf.dtype), one)

    def see(view: View, image: Array | None = None) -> Array:
        count = batch_size if image is None else image.shape[0]
        return jnp.zeros((count * rows_of(view), *shape))

    def trace() -> None:
        key, label = jax.random.PRNGKey(0), jnp.zeros(batch_size, jnp.int32)
        facts = Facts(jnp.zeros(total, jnp.int32), shape, classes)
        batch = Batch(
            image=jnp.zeros((batch_size, *shape), jnp.uint8),
            label=label,
            index=label,
            see=see,
            epoch=label[0],
            key=key,
            memory=stage.memory(key, facts) if stage.memory else {},
            counts=lambda: np.ones(classes, int),
        )
        stage.loss({name: functools.partial(call, name) for name in stage.nets}, batch)

    jax.eval_shape(trace)
    return found


def size_of(config: Row, network: str = "") -> int:
    """Pixels of a side of the images that a network sees; without a name, of the dataset's."""
    _, _, size = DATASETS.get(config["data"]["name"], UNKNOWN)
    return config.get(network, {}).get("size") or config["data"].get("size", size)


@functools.cache
def rows_of(view: View) -> int:
    """How many rows a view makes from one image."""
    optics = Optics(flip=True, pad=1, mean=(0.5,) * 3, std=(0.5,) * 3)
    key, pixels = jax.random.key(0), jnp.zeros((8, 8, 3), jnp.uint8)
    return jax.eval_shape(functools.partial(view, optics), key, pixels).shape[0]


def teraflop(config: Row, stages: Mapping[str, Stage]) -> float | None:
    """Operations of the networks in training, in 10**12; None for datasets of unknown size.

    For a student, its teacher's training does not count, nor do heads, regressors and memories.
    """
    if config["data"]["name"] not in DATASETS:
        return None
    kinds = [kind for kind in stages if kind != "teacher"] or ["teacher"]
    return round(sum(stage_cost(config, kind, stages[kind]) for kind in kinds) / 1e12, 3)


def stage_cost(config: Row, kind: str, stage: Stage) -> float:
    """Floating-point operations of the networks in the training of one stage."""
    section, (_, classes, _) = config[kind], DATASETS[config["data"]["name"]]
    per_image, counts = 0.0, rows(config, kind, stage)
    for name, net in stage.nets.items():
        network, part = net.place
        if network:
            size = size_of(config, network)
            per_row = forward(config[network]["model"], part, size, classes)
            per_image += passes(net, stage) * counts[name] * per_row
    steps = images_of_epoch(config, section, stage) // section["batch_size"]
    return section["epochs"] * steps * section["batch_size"] * per_image


def passes(net: Net, stage: Stage) -> int:
    """The cost of a call of a net in training, in forward passes.

    A backward pass counts as two. DOT has two of them, one for each of its momenta.
    """
    backward = 2 if stage.momentum_offset else 1
    return 1 + 2 * backward if net.learns else 1


def images_of_epoch(config: Row, section: Row, stage: Stage) -> int:
    """How many training images an epoch of a stage visits."""
    total, classes, _ = DATASETS[config["data"]["name"]]
    total -= round(config["data"]["validation"] * total)
    label = np.arange(total) % classes
    if section["images"]["imbalance"] > 1:
        label = label[long_tail(label, section["images"]["imbalance"], seed=0)]
    label = label[: round(section["images"]["share"] * label.size)]
    images = types.SimpleNamespace(size=label.size, label=label)
    return len(stage.order(np.random.default_rng(0), images, 0))


@functools.cache
def forward(model: str, part: str, size: int, classes: int) -> float:
    """Operations of a network, or of its part "branches", in a forward pass over one image."""
    module, given, _ = outline(model, part, size, classes)
    return forward_operations(module, (given,), {})


def forward_operations(module: nn.Module | Adapted, args: Any, kwargs: Any) -> float:
    """Floating-point operations of one call of a net, as XLA counts them before it optimises."""
    module = in_dtype(module, jnp.float32)  # else conversions would count
    blank = jax.eval_shape(module.init, jax.random.key(0), *args, **kwargs)
    return jax.jit(module.apply).lower(blank, *args, **kwargs).cost_analysis()["flops"]


def in_dtype(module: nn.Module | Adapted, dtype: Any) -> nn.Module | Adapted:
    """The same net, but computing in another dtype."""
    if isinstance(module, Branches):
        return Branches(in_dtype(module.network, dtype))
    if isinstance(module, Adapted):
        return dataclasses.replace(module, module=in_dtype(module.module, dtype))
    return module.clone(dtype=dtype) if hasattr(module, "dtype") else module


@functools.cache
def outline(model: str, part: str, size: int, classes: int) -> tuple[nn.Module, Any, Any]:
    """(module, its argument's shapes, its outputs' shapes) of a network or part, for one image."""
    module, key = architecture(model)(num_classes=classes), jax.random.key(0)
    given = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    outputs, _ = jax.eval_shape(module.init_with_output, key, given)
    if part:
        module, given = getattr(module, part), outputs.maps
        outputs, _ = jax.eval_shape(module.init_with_output, key, given)
    return module, given, outputs
