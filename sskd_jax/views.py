"""Rotated, cropped and normalised views of an image, made on the device inside the jitted step.

Xu et al., Knowledge Distillation Meets Self-Supervision, ECCV 2020. The order is that of the released code: flip,
rotate, crop.
"""

from functools import partial

import jax
import jax.numpy as jnp

from sskd_jax.types import Array

Channels = tuple[float, float, float]


def keys(key: Array, position: Array) -> Array:
    """One key per example from its position i32[N] in the global batch, so that no draw depends on the device count."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, position)


def augment(
    key: Array, image: Array, *, views: int, flip: bool, pad: int, mean: Channels, std: Channels
) -> Array:
    """Training views f32[V, H, W, C] of one square uint8 image [H, W, C]; `vmap` it with one key per example.

    Args:
      key: decides everything random about this image.
      image: uint8[H, W, C] with H = W.
      views: how many; view k is the image turned by k * 90 degrees.
      flip: whether to mirror left and right with probability 1/2, in all views alike.
      pad: width of the black border within which every view draws its own crop, as PyTorch's RandomCrop does.
      mean: per channel, of values in [0, 1].
      std: per channel, of values in [0, 1].
    """
    flip_key, crop_key = jax.random.split(key)
    if flip:
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    start = jax.random.randint(crop_key, (views, 2), 0, 2 * pad + 1)
    return _normalise(jax.vmap(partial(_crop, pad=pad))(_rotate(image, views), start), mean, std)


def evaluate_views(image: Array, *, views: int, mean: Channels, std: Channels) -> Array:
    """The same rotations f32[V, H, W, C] of one uint8 image [H, W, C], neither flipped nor cropped."""
    return _normalise(_rotate(image, views), mean, std)


def _rotate(image: Array, views: int) -> Array:
    """[V, H, W, C]: view k is the image turned counter-clockwise by k * 90 degrees."""
    return jnp.stack([jnp.rot90(image, k) for k in range(views)])


def _crop(image: Array, start: Array, pad: int) -> Array:
    """The window [H, W, C] that begins at start i32[2] of the zero-padded image: moved by `pad` at most."""
    padded = jnp.pad(
        image, ((pad, pad), (pad, pad), (0, 0))
    )  # zero before normalisation: black, not the mean colour
    return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


def _normalise(view: Array, mean: Channels, std: Channels) -> Array:
    """uint8[V, H, W, C] as f32 with the given mean and standard deviation per channel."""
    mean, std = (jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in (mean, std))
    return (view.astype(jnp.float32) / 255 - mean) / std
