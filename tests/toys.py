"""Small methods that need much of the one step: real ones with small numbers, and toys."""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from sskd_jax.axis import everywhere
from sskd_jax.layers.norm import BatchNorm
from sskd_jax.losses import cross_entropy, soft_divergence
from sskd_jax.methods import METHODS
from sskd_jax.methods.common import supervised, top
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs, Stage, learns
from sskd_jax.views import once, rotated

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


def peers() -> Method:
    """Two networks that learn from each other (as HSSAKD's online version)."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        pixels = batch.see(once)
        student, peer = everywhere((nets["student"](pixels).logits, nets["peer"](pixels).logits))
        labelled = cross_entropy(student, batch.label) + cross_entropy(peer, batch.label)
        mutual = soft_divergence(student, lax.stop_gradient(peer), temperature=3.0)
        mutual += soft_divergence(peer, lax.stop_gradient(student), temperature=3.0)
        return Losses({"labelled": labelled, "mutual": mutual})

    nets = {"student": learns("student"), "peer": learns("student")}
    return {"student": Stage(("labelled", "mutual"), nets, loss, top("student"))}


def by_shots(nets: Nets, batch: Batch) -> dict[str, object]:
    """Scores over part of the rows: of all images, of the first class, and of turned views."""
    logits = everywhere(nets["student"](batch.see(rotated)).logits)
    label = jnp.repeat(batch.label, 4)
    right = (logits.argmax(-1) == label).astype(jnp.float32)
    view = jnp.arange(label.size) % 4
    return {
        "upright": (right, view == 0),
        "first": (right, label == 0),
        "turned": (right, view > 0),
    }


def scored_by_shots() -> Method:
    """A stage whose first score counts one row in four."""
    return {"student": supervised("student")._replace(scores=by_shots)}


# A net that follows another, a queue, an order that is no permutation, a second classifier.
SSD_LT = {
    "width": 8,
    "queue_length": 24,
    "key_momentum": 0.9,
    "contrast_temperature": 0.2,
    "kd_temperature": 2.0,
    "jitter": 0.4,
    "teacher_trains": False,
}
# An order by task, and stored images that are seen anew.
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
    "peers": peers,
    "scored_by_shots": scored_by_shots,
    "ssd_lt": partial(METHODS["ssd_lt"], **SSD_LT),
    "coca": partial(METHODS["coca"], **COCA),
}
