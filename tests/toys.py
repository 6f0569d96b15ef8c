"""Toys of what no method here needs yet: each is a method that the one step trains."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from sskd_jax.axis import everywhere, share
from sskd_jax.layers.heads import Linear
from sskd_jax.layers.norm import BatchNorm
from sskd_jax.losses import cross_entropy, normalized, product, soft_divergence
from sskd_jax.methods.common import supervised, top
from sskd_jax.types import (
    Array,
    Batch,
    Facts,
    Losses,
    Method,
    Nets,
    Outputs,
    Stage,
    follows,
    frozen,
    learns,
)
from sskd_jax.views import once, rotated

WIDTH, CLASSES = 8, 4
QUEUE, BUFFER, REPLAYED = 24, 16, 8


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


class Scales(nn.Module):
    """A factor for every class."""

    @nn.compact
    def __call__(self, logits: Array, train: bool = False) -> Array:
        return logits * self.param("scale", nn.initializers.ones, logits.shape[-1:])[None]


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


def enqueued(memory: dict[str, Array], keys: Array, label: Array) -> dict[str, Array]:
    """The queue with the newest keys in place of the oldest."""
    place = (memory["place"] + jnp.arange(label.size)) % QUEUE
    return {
        "keys": memory["keys"].at[place].set(keys),
        "label": memory["label"].at[place].set(label),
        "place": (memory["place"] + label.size) % QUEUE,
    }


def momentum_contrast() -> Method:
    """A net that follows another, with a queue of what it gave (as SSD-LT's first stage)."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        student, key = nets["student"](batch.see(once)), nets["key"](batch.see(once))
        query = normalized(everywhere(nets["projector"](student.embed)))
        key = normalized(everywhere(nets["key_projector"](key.embed)))
        other = batch.memory["label"][None] != batch.label[:, None]
        negative = jnp.where(other, product(query, batch.memory["keys"].T), -jnp.inf)
        positive = jnp.sum(query * key, 1, keepdims=True)
        scores = jnp.concatenate([positive, negative], 1) / 0.2
        contrast = cross_entropy(scores, jnp.zeros_like(batch.label))
        labelled = cross_entropy(student.logits, share(batch.label))
        memory = enqueued(batch.memory, key, batch.label)
        return Losses({"labelled": labelled, "contrast": contrast}, memory=memory)

    def memory(key: Array, facts: Facts) -> dict[str, Array]:
        keys = normalized(jax.random.normal(key, (QUEUE, WIDTH)))
        return {"keys": keys, "label": jnp.zeros(QUEUE, jnp.int32), "place": jnp.int32(0)}

    nets = {
        "student": learns("student"),
        "projector": learns(Linear(WIDTH)),
        "key": follows("student", "student", 0.9),
        "key_projector": follows("projector", Linear(WIDTH), 0.9),
    }
    stage = Stage(("labelled", "contrast"), nets, loss, top("student"), memory)
    return {"student": stage}


def stored(memory: dict[str, Array], key: Array, batch: Batch, logits: Array) -> dict[str, Array]:
    """A reservoir: every image seen so far is in it with the same probability (algorithm R)."""
    image = everywhere(batch.image)

    def put(i: Array, memory: dict[str, Array]) -> dict[str, Array]:
        seen = memory["seen"]
        drawn = jax.random.randint(jax.random.fold_in(key, i), (), 0, seen + 1)
        slot = jnp.where(seen < BUFFER, seen, drawn)  # one behind the end is dropped
        return {
            "image": memory["image"].at[slot].set(image[i], mode="drop"),
            "label": memory["label"].at[slot].set(batch.label[i], mode="drop"),
            "logits": memory["logits"].at[slot].set(logits[i], mode="drop"),
            "seen": seen + 1,
        }

    return lax.fori_loop(0, batch.label.size, put, memory)


def replay() -> Method:
    """A stage that sees stored images anew, in another view each time (as CoCa)."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        memory = batch.memory
        filled = jnp.clip(memory["seen"], 1, BUFFER)
        slot = jax.random.randint(jax.random.fold_in(batch.key, 1), (REPLAYED,), 0, filled)
        old = batch.see(once, share(memory["image"][slot]))
        again = everywhere(nets["student"](old).logits)
        logits = everywhere(nets["student"](batch.see(once)).logits)
        kept = jnp.mean(jnp.square(again - memory["logits"][slot]))
        recalled = cross_entropy(again, memory["label"][slot])
        some = memory["seen"] > 0
        remembered = stored(memory, jax.random.fold_in(batch.key, 2), batch, logits)
        return Losses(
            {
                "labelled": cross_entropy(logits, batch.label),
                "kept": jnp.where(some, kept, 0),
                "recalled": jnp.where(some, recalled, 0),
            },
            memory=lax.stop_gradient(remembered),
        )

    def memory(key: Array, facts: Facts) -> dict[str, Array]:
        return {
            "image": jnp.zeros((BUFFER, *facts.shape), jnp.uint8),
            "label": jnp.zeros(BUFFER, jnp.int32),
            "logits": jnp.zeros((BUFFER, facts.num_classes)),
            "seen": jnp.int32(0),
        }

    terms = ("labelled", "kept", "recalled")
    nets = {"student": learns("student")}
    return {"student": Stage(terms, nets, loss, top("student"), memory)}


def balanced(rng: np.random.Generator, images: object, epoch: int) -> np.ndarray:
    """Every class in turn, however few images it has: no permutation (as SSD-LT's second stage)."""
    classes = np.unique(images.label)
    turns = -(-images.size // len(classes))
    picks = [rng.choice(np.flatnonzero(images.label == kind), turns) for kind in classes]
    return np.stack(picks, 1).ravel()[: images.size]


def rescaled() -> Method:
    """An order that is no permutation, on a network that an earlier stage trained."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        logits = nets["scales"](nets["student"](batch.see(once)).logits)
        return Losses({"labelled": cross_entropy(logits, share(batch.label))})

    nets = {"student": frozen("student", "features/student"), "scales": learns(Scales())}
    scales = Stage(("labelled",), nets, loss, top("student"), order=balanced)
    return {"features": supervised("student"), "scales": scales}


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


TOYS = {toy.__name__: toy for toy in (peers, momentum_contrast, replay, rescaled, scored_by_shots)}
