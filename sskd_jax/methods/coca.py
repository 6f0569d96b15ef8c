"""CoCa: complementary calibration for continual learning (Ji, Li, Wang, Zhang, IEEE TIP 2023).

As released for CIFAR and Tiny-ImageNet. Shapes: N images, R images of the buffer, n = N + R of
both, K classes, D width of the invariant features.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from sskd_jax.axis import everywhere, share
from sskd_jax.layers.heads import Linear
from sskd_jax.layers.norm import BatchNorm
from sskd_jax.losses import accuracy, cross_entropy, normalized, product
from sskd_jax.methods.stream import (
    TaskByTask,
    among,
    cross_entropy_over,
    logit_distance,
    mean_of,
    own_columns,
    recall,
    reservoir,
    stream_method,
)
from sskd_jax.rules import BelowOne, Count, Flag, Positive, Share
from sskd_jax.types import Array, Batch, Losses, Method, Nets, learns
from sskd_jax.views import once

ROTATIONS = 4
SELF_PENALTY = 0.1  # is subtracted from a row's similarity with itself
PARTS = 4  # how many parts of an image may be turned if it may also be stretched
PART = 0.665  # area that is cut out before an image is turned: the middle of .66 and .67
TALL, WIDE = 0.67, 1.32  # width over height of the parts that are stretched


class Head(nn.Module):
    """Three linear layers [n, E] -> [n, features], the first two with batch norm and ReLU."""

    features: int

    @nn.compact
    def __call__(self, embed: Array, train: bool = False) -> Array:
        x, width = embed, embed.shape[-1]
        for layer in (0, 3):
            x = BatchNorm(train, name=f"{layer + 1}")(Linear(width, name=f"{layer}")(x))
            x = nn.relu(x)
        return Linear(self.features, name="6")(x)


class Seen(NamedTuple):
    """What the networks say of images: logits [r, K], and features [r, D] of unit length."""

    logits: Array
    feature: Array


def seen(nets: Nets, pixels: Array) -> Seen:
    """What the networks say of this device's share of pixels [r, H, W, C]."""
    student = nets["student"](pixels)
    return Seen(student.logits, normalized(nets["invariant"](student.embed)))


def ensembled(feature: Array, logits: Array, counts: Array, omega: float) -> Array:
    """Logits [R, K] averaged repeatedly over rows with similar features [R, D].

    In each step a row becomes `omega` times a weighted mean of itself and the rows that count
    bool[R], plus 1 - omega times its first logits; this is the limit (BAKE, Ge et al. 2021).
    """
    itself = jnp.eye(feature.shape[0])
    similarity = product(feature, feature.T) - SELF_PENALTY * itself
    is_seen = counts[None] | (itself > 0)
    affinity = jax.nn.softmax(jnp.where(is_seen, similarity, -jnp.inf))
    return (1 - omega) * jnp.linalg.solve(itself - omega * affinity, logits)


def corrected(stored: Array, now: Seen, counts: Array, omega: float, gamma: float) -> Array:
    """The target [R, K] for stored images: their stored logits, corrected by similar images."""
    similar = ensembled(now.feature, now.logits, counts, omega)
    return (1 - gamma) * stored + gamma * lax.stop_gradient(similar)


def within_tasks(new: Array, stored: Array, label: Array, task_classes: int) -> tuple[Array, Array]:
    """Logits of new images among their task's classes, of stored ones among those so far."""
    classes = new.shape[1]
    own = own_columns(label, classes, task_classes)
    so_far = jnp.arange(classes) // task_classes <= label.max() // task_classes
    return among(new, own), among(stored, so_far[None])


def supervised_contrast(
    one: Array, other: Array, label: Array, counts: Array, temperature: float
) -> Array:
    """SupCon (Khosla et al. 2020) of two views [n, D], unit vectors, of images that count bool[n].

    A row's positives are its other view and the rows of its class.
    """
    rows, label = jnp.concatenate([one, other]), jnp.concatenate([label, label])
    counts = jnp.concatenate([counts, counts])
    itself = jnp.eye(label.size, dtype=bool)
    is_other = ~itself & counts[None]
    similarity = product(rows, rows.T) / temperature
    # A row that does not count is compared with itself alone, so that nothing becomes infinite.
    is_seen = is_other | (itself & ~counts[:, None])
    log_probability = jax.nn.log_softmax(jnp.where(is_seen, similarity, -jnp.inf))
    is_positive = is_other & (label[:, None] == label[None])
    total = jnp.sum(jnp.where(is_positive, log_probability, 0), 1)
    return mean_of(-total / jnp.maximum(is_positive.sum(1), 1), counts)


def part_size(size: int) -> int:
    """The side of the square that is cut out of an image: 26 of 32 pixels."""
    return round(size * math.sqrt(PART))


def spun(pixels: Array, corner: Array, way: Array, stretched: bool = False) -> Array:
    """A part of pixels [H, H, C], enlarged, then turned clockwise.

    It is turned by `way` modulo 4 times 90 degrees. The part is a square from corner i32[2] on.
    If images may also be `stretched`, way // 4 chooses the part: 0 for that square, 1 for the
    middle columns, 2 for the middle rows, and 3 for the whole image.
    """
    size, depth = pixels.shape[0], pixels.shape[2]
    side, width, height = part_size(size), round(TALL * size), round(size / WIDE)
    left, top = (size - width) // 2, (size - height) // 2

    def enlarged(part: Array) -> Array:
        return jax.image.resize(part, pixels.shape, "bilinear")

    found = enlarged(lax.dynamic_slice(pixels, (corner[0], corner[1], 0), (side, side, depth)))
    if stretched:
        columns = enlarged(pixels[:, left : left + width])
        rows = enlarged(pixels[top : top + height])
        found = jnp.stack([found, columns, rows, pixels])[way // ROTATIONS]
    turns = [lambda x, k=k: jnp.rot90(x, -k) for k in range(ROTATIONS)]
    return lax.switch(way % ROTATIONS, turns, found)


def random_turns(key: Array, count: int, size: int, ways: int) -> tuple[Array, Array]:
    """(corner i32[count, 2], way i32[count]) of images of `size` pixels.

    All ways occur equally often, as nearly as `count` allows.
    """
    corner_key, way_key = jax.random.split(key)
    places = size - part_size(size) + 1
    corner = jax.random.randint(corner_key, (count, 2), 0, places)
    return corner, jax.random.permutation(way_key, count) % ways


class Turned(NamedTuple):
    """Images that were turned at random.

    Attributes:
      way: i32[n], how each was turned.
      guess: f32[n, ways], the logits that predict it.
      feature: f32[n, D] of the turned images.
    """

    way: Array
    guess: Array
    feature: Array


def turn(nets: Nets, batch: Batch, pixels: Array, count: int, ways: int) -> Turned:
    """Turns `count` images, of which this device has its share of new ones, then of stored ones."""
    new, own = batch.label.size, batch.image.shape[0]
    key = jax.random.fold_in(batch.key, 4)
    corner, way = random_turns(key, count, pixels.shape[1], ways)
    corners, own_ways = (jnp.concatenate(share((x[:new], x[new:]))) for x in (corner, way))
    spin = partial(spun, stretched=ways > ROTATIONS)
    turned = nets["student"](jax.vmap(spin)(pixels, corners, own_ways)).embed
    found = nets["rotation"](turned), normalized(nets["invariant"](turned))
    guess, feature = (jnp.concatenate(everywhere((x[:own], x[own:]))) for x in found)
    return Turned(way, guess, feature)


def coca(
    *,
    task_classes: Count,
    task_epochs: Count,
    buffer_size: Count,
    replay_size: Count,
    boundaries: Flag,
    omega: BelowOne,
    gamma: Share,
    width: Count,
    temperature: Positive,
    stretched: Flag,
) -> Method:
    """DER++ with stored logits that are corrected by similar images, and two auxiliary tasks.

    The network predicts how images were turned (rot), and makes the features of an image, its
    turned view and images of its class similar (supcon).

    Args:
      task_classes, task_epochs, buffer_size, replay_size: as in `der`.
      boundaries: whether new images are classified among the classes of their own task alone, and
        stored ones among those of the tasks so far, instead of among all classes.
      omega: the weight of similar images in `ensembled`.
      gamma: the weight of the corrected logits in the target for stored images.
      width: of the features that supcon compares.
      temperature: of that comparison.
      stretched: whether images are not only turned, but also stretched or left whole, as released
        for Tiny-ImageNet: 16 ways instead of 4.
    """
    ways = ROTATIONS * (PARTS if stretched else 1)

    def loss(nets: Nets, batch: Batch) -> Losses:
        pixels, label = batch.see(once), batch.label
        look = partial(seen, nets)
        new = everywhere(look(pixels))
        kept, kept_now = recall(batch, 1, replay_size, look)
        replayed, replayed_now = recall(batch, 2, replay_size, look)
        target = corrected(kept.logits, kept_now, kept.counts, omega, gamma)
        chosen, chosen_again = new.logits, replayed_now.logits
        if boundaries:
            chosen, chosen_again = within_tasks(chosen, chosen_again, label, task_classes)

        # Both auxiliary tasks take the new images and the replayed ones.
        labels = jnp.concatenate([label, replayed.label])
        counts = jnp.concatenate([jnp.ones_like(label, bool), replayed.counts])
        feature = jnp.concatenate([new.feature, replayed_now.feature])
        both = jnp.concatenate([pixels, replayed.pixels])
        turned = turn(nets, batch, both, labels.size, ways)
        terms = {
            "ce": cross_entropy(chosen, label),
            "distil": logit_distance(kept_now.logits, target, kept.counts),
            "replay": cross_entropy_over(chosen_again, replayed.label, replayed.counts),
            "supcon": supervised_contrast(feature, turned.feature, labels, counts, temperature),
            "rot": cross_entropy_over(turned.guess, turned.way, counts),
        }
        key = jax.random.fold_in(batch.key, 3)
        memory = reservoir(key, batch.memory, new.logits, batch)
        return Losses(terms, {"accuracy": accuracy(new.logits, label)}, memory)

    return stream_method(
        ("ce", "distil", "replay", "supcon", "rot"),
        {
            "student": learns("student"),
            "invariant": learns(Head(width)),
            "rotation": learns(Head(ways)),
        },
        loss,
        TaskByTask(task_classes, task_epochs),
        buffer_size,
    )
