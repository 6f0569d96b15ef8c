"""What networks see of an image: views, made on the device inside the jitted step.

A view is a function (optics, key, image) -> f32[V, H, W, C] of one square uint8 image [H, W, C].
`key` decides everything random about it; with `Optics.plain` nothing is random.

SSKD (Xu et al., ECCV 2020) flips, rotates and then crops, and HSAKD (Yang et al., IJCAI 2021)
flips, crops and then rotates, each as in its released code.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sskd_jax.distortions import distort
from sskd_jax.types import Array

Channels = tuple[float, float, float]


class Optics(NamedTuple):
    """How a dataset is looked at.

    Attributes:
      flip: whether to mirror left and right with probability 1/2, in all views of an image alike.
      pad: width of the black border within which every view draws its own crop, as PyTorch's
        RandomCrop does.
      mean: per channel, of values in [0, 1].
      std: per channel, of values in [0, 1].
    """

    flip: bool
    pad: int
    mean: Channels
    std: Channels

    def plain(self) -> "Optics":
        """The same without anything random, for evaluation."""
        return self._replace(flip=False, pad=0)


def once(optics: Optics, key: Array, image: Array) -> Array:
    """The image itself, flipped and moved at random: f32[1, H, W, C]."""
    return turns(optics, key, image, 1)


def rotated(optics: Optics, key: Array, image: Array) -> Array:
    """The four rotations of SSKD, f32[4, H, W, C]: one flip for all, a crop of its own for each."""
    return turns(optics, key, image, 4)


def turned(optics: Optics, key: Array, image: Array) -> Array:
    """The four rotations of HSAKD, f32[4, H, W, C]: those of one view, with its flip and crop."""
    (view,) = once(optics, key, image)
    return jnp.stack([jnp.rot90(view, k) for k in range(4)])


def strong(optics: Optics, key: Array, image: Array) -> Array:
    """The image flipped and moved at random, then strongly distorted: f32[1, H, W, 3].

    It is random whatever the optics, so it is a view for training alone.
    """
    place, distortion = jax.random.split(key)
    (view,) = moved(optics, place, image, 1)
    return normalise(distort(distortion, view)[None], optics)


def turns(optics: Optics, key: Array, image: Array, count: int) -> Array:
    """View k of `count` is the image turned counter-clockwise by k * 90 degrees."""
    return normalise(moved(optics, key, image, count), optics)


def moved(optics: Optics, key: Array, image: Array, count: int) -> Array:
    """The same in front of normalisation: u8[count, H, W, C]."""
    flip_key, crop_key = jax.random.split(key)
    if optics.flip:
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    views = jnp.stack([jnp.rot90(image, k) for k in range(count)])
    if optics.pad:
        start = jax.random.randint(crop_key, (count, 2), 0, 2 * optics.pad + 1)
        views = jax.vmap(partial(crop, pad=optics.pad))(views, start)
    return views


def crop(image: Array, start: Array, pad: int) -> Array:
    """The window [H, W, C] that begins at start i32[2] of the zero-padded image.

    It is the image moved by `pad` at most.
    """
    # Zero before normalisation is black, not the mean colour.
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


def normalise(view: Array, optics: Optics) -> Array:
    """Levels from 0 to 255 [V, H, W, C] as f32, with the mean and deviation of `optics`."""
    mean, std = (
        jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in (optics.mean, optics.std)
    )
    return (view.astype(jnp.float32) / 255 - mean) / std
