"""A network that compiles in a second, and stages of it on random images."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sskd_jax import views
from sskd_jax.axis import AXIS
from sskd_jax.engine import optim
from sskd_jax.engine.step import Frozen, Task, initial_state
from sskd_jax.methods import METHODS
from sskd_jax.models.resnet import ResNet

TinyNet = partial(ResNet, blocks=(1, 1), widths=(8, 8, 16))
SSKD = dict(
    kd_temperature=4.0,
    tf_temperature=4.0,
    ss_temperature=0.5,
    tf_ratio=1.0,
    ss_ratio=0.75,
    head_temperature=1.0,
)
WEIGHTS = dict(ce=0.1, kd=0.9, tf=2.7, ss=10.0)


def images(
    count: int = 48, size: int = 8, classes: int = 10, seed: int = 0
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, size, size, 3), np.uint8),
        "label": rng.integers(0, classes, count).astype(np.int32),
    }


def sskd_task(steps_per_epoch: int = 3, dtype: Any = jnp.float32) -> Task:
    colour = dict(views=4, mean=(0.5,) * 3, std=(0.25,) * 3)
    network = TinyNet(num_classes=10, dtype=dtype, axis_name=AXIS)
    return Task(
        network,
        network,
        METHODS["sskd"](**SSKD),
        WEIGHTS,
        optim.sgd(lambda step: 0.05, momentum=0.9, weight_decay=5e-4),
        partial(views.augment, flip=True, pad=1, **colour),
        partial(views.evaluate_views, **colour),
        steps_per_epoch,
    )


def sskd_frozen(task: Task, count: int = 48) -> Frozen:
    """Random images, a random teacher and its random head."""
    frozen = Frozen(jax.random.PRNGKey(1), **images(count), teacher={}, pretrained={})
    teacher = task.teacher.init(jax.random.key(2), np.zeros((1, 8, 8, 3), np.float32))
    outputs = jax.eval_shape(task.teacher.apply, teacher, np.zeros((1, 8, 8, 3), np.float32))
    head = task.method.pretrain["head"].init(jax.random.key(3), None, outputs)
    return frozen._replace(teacher=teacher, pretrained={"head": head})


def sskd_start(task: Task, frozen: Frozen):
    return initial_state(task, jax.random.key(4), frozen)
