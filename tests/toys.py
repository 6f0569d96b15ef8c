"""Methods that use most features of the training step, with small numbers; a small network."""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.layers.norm import BatchNorm
from sskd_jax.methods import METHODS
from sskd_jax.types import Array, Outputs

WIDTH, CLASSES = 8, 4


class Small(nn.Module):
    """A convolution, batch norm and a classifier."""

    num_classes: int
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Outputs:
        features = nn.Conv(WIDTH, (3, 3), (2, 2), name="conv")(image)
        features = nn.relu(BatchNorm(train, name="norm")(features))
        embed = features.mean((1, 2))
        return Outputs(nn.Dense(self.num_classes, name="fc")(embed), embed, (features,))


class Backboned(nn.Module):
    """A network whose parameters have a name that other files have as a prefix."""

    num_classes: int
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Outputs:
        return Small(self.num_classes, name="backbone")(image, train)


# Has a net that follows another, a queue, an order that is no permutation, a second classifier.
SSD_LT = {
    "width": 8,
    "queue_length": 24,
    "key_momentum": 0.9,
    "contrast_temperature": 0.2,
    "kd_temperature": 2.0,
    "jitter": 0.4,
    "teacher_trains": False,
}
# Has an order by task, and stored images that are augmented anew.
COCA = {
    "task_classes": 2,
    "task_epochs": 1,
    "buffer_size": 16,
    "replay_size": 8,
    "boundaries": True,
    "omega": 0.1,
    "gamma": 0.1,
    "width": 8,
    "temperature": 0.5,
    "stretched": False,
}
TOYS = {
    "ssd_lt": partial(METHODS["ssd_lt"], **SSD_LT),
    "coca": partial(METHODS["coca"], **COCA),
}
