"""A network that compiles in a second, and tasks of any stage with it, on random images."""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from configs import quickstart
from sskd_jax import plan, sections, settings
from sskd_jax.engine.begin import Sketch, begin, sketch
from sskd_jax.engine.devices import run_once
from sskd_jax.engine.loop import Job
from sskd_jax.engine.step import initial_state
from sskd_jax.engine.task import Frozen, Task, TrainState
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS
from sskd_jax.models.network import Pair
from sskd_jax.models.resnet import BasicBlock, ResNet
from sskd_jax.plan import score_names
from sskd_jax.types import Array, Params, Stage
from sskd_jax.views import Optics


class PlainBlock(BasicBlock):
    """One convolution and no skip connection, to compile in a shorter time."""

    @nn.compact
    def __call__(self, x: Array) -> Pair:
        preact = self.norm(name="bn1")(self.conv(self.width, 3, self.stride, name="conv1")(x))
        return nn.relu(preact), preact


TinyNet = partial(ResNet, blocks=(1, 1), widths=(8, 8, 16), block=PlainBlock)
SSKD = {
    "transformation": "rotation",
    "kd_temperature": 4.0,
    "tf_temperature": 4.0,
    "ss_temperature": 0.5,
    "tf_ratio": 1.0,
    "ss_ratio": 0.75,
    "head_temperature": 1.0,
}
WEIGHTS = {"ce": 0.1, "kd": 0.9, "tf": 2.7, "ss": 10.0}
OPTICS = Optics(flip=True, pad=1, mean=(0.5,) * 3, std=(0.25,) * 3)
CLASSES = 10
STREAMS = ("der", "coca")  # methods for streams of tasks, which must be equally large
LONG_TAILED = ("features", "scales", "classifier")  # stages of methods for long tails


def images(count: int = 48, size: int = 8, classes: int = CLASSES, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, size, size, 3), np.uint8),
        "label": rng.integers(0, classes, count).astype(np.int32),
    }


def network(name: str, dtype: Any = jnp.float32) -> nn.Module:
    """A tiny network for "student" or "teacher"; its branches for "teacher.branches"."""
    return part_of(TinyNet(num_classes=CLASSES, dtype=dtype), name)


def part_of(network: nn.Module, name: str) -> nn.Module:
    """The network itself, or the part of it that a name such as "teacher.branches" asks for."""
    _, _, part = name.partition(".")
    return getattr(network, part) if part else network


def make_task(
    stage: Stage,
    weights: Mapping[str, float] | None = None,
    *,
    steps_per_epoch: int = 3,
    optics: Optics = OPTICS,
    dtype: Any = jnp.float32,
) -> Task:
    """The task of a stage on tiny networks, whose terms count 1 unless `weights` says otherwise."""
    modules = {
        name: network(net.module, dtype) if isinstance(net.module, str) else net.module
        for name, net in stage.nets.items()
    }
    weights = weights or dict.fromkeys(stage.terms, 1.0)
    numbers = ConfigDict({"momentum": 0.9, "weight_decay": 5e-4, "nesterov": False})
    optimizer = sections.optimizer_of("", numbers, stage, lambda step: 0.05)
    return Task(stage, modules, weights, optimizer, optics, CLASSES, steps_per_epoch, class_counts)


def class_counts() -> np.ndarray:
    """The numbers of training images of a long-tailed dataset: from 5 to 140 per class."""
    return np.arange(CLASSES) * 15 + 5


def make_frozen(task: Task, count: int = 48) -> Frozen:
    """Random images, and random weights of the frozen nets."""
    frozen = Frozen(jax.random.PRNGKey(1), **images(count), nets={})
    stage = task.stage
    learning = {name: net._replace(learns=True, start="") for name, net in stage.nets.items()}
    everything = task._replace(stage=stage._replace(nets=learning))
    program = partial(begin, everything, frozen.image.shape[1:])
    state = run_once(program, jax.random.key(2), frozen.label, frozen.nets, {})
    still = [name for name, net in stage.nets.items() if net.is_frozen]
    return frozen._replace(nets={name: state.variables[name] for name in still})


def sketched(task: Task, frozen: Frozen, start: Params | None = None) -> tuple[Task, Sketch]:
    """The task, completed from its sketch as in the plan of a run, and that sketch."""
    found = sketch(task, frozen, start or {})
    scores = score_names(task, found, frozen)
    return task._replace(reached=found.reached, scores=scores), found


def start_state(task: Task, frozen: Frozen) -> TrainState:
    return initial_state(task, jax.random.key(4), frozen)


def sskd_task(steps_per_epoch: int = 3, dtype: Any = jnp.float32) -> Task:
    """The student's stage of SSKD."""
    stage = METHODS["sskd"](**SSKD)["student"]
    return make_task(stage, WEIGHTS, steps_per_epoch=steps_per_epoch, dtype=dtype)


def small_config(**changes: Any) -> ConfigDict:
    """The quickstart on tiny networks: two epochs per stage, of three steps each.

    A test that uses it must register the architecture `tiny`: see `tiny_network`.
    """
    config = quickstart.get_config()
    config.seeds = 1
    own = ("head", "warmup", "paraphraser", "branches", *LONG_TAILED)
    for section in ("teacher", *own, "student"):
        config[section].update(epochs=2, batch_size=32, milestones=(0.5,))
        config[section].images.share = 0.08
    config.teacher.model = config.student.model = "tiny"
    config.update_from_flattened_dict(changes)
    return config


@contextlib.contextmanager
def tiny_network() -> Iterator[pytest.MonkeyPatch]:
    """A context in which the tiny network is registered as the architecture `tiny`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", TinyNet)
        yield patch


def planned(config: ConfigDict, devices: int = 1) -> list[Job]:
    """The jobs of a run with this config."""
    loaded = plan.load(config, jax.devices()[:devices])
    return plan.plan(loaded, settings.check(config))
