"""Views: the networks' inputs, made from an image on the device inside the jitted step.

A view is a function (optics, key, image) -> f32[V, H, W, C] of one square uint8 image [H, W, C].
`key` decides everything that is random. With `Optics.plain`, `once` and the rotations are not.

SSKD (Xu et al., ECCV 2020) flips, rotates and then crops, and HSAKD (Yang et al., IJCAI 2021)
flips, crops and then rotates, each as in its released code.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sskd_jax.distortions import distort
from sskd_jax.types import Array

Channels = tuple[float, float, float]


class Optics(NamedTuple):
    """How the images of a dataset are augmented and normalised.

    Attributes:
      flip: whether to mirror left and right with probability 1/2, rotations of an image alike.
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
        """The same without random flips and crops, for evaluation."""
        return self._replace(flip=False, pad=0)

    def own(self, section: Mapping[str, Any]) -> "Optics":
        """The same with the `mean` and `std` of a network's config section, if it has them."""
        mean, std = section.get("mean") or self.mean, section.get("std") or self.std
        return self._replace(mean=tuple(mean), std=tuple(std))


def once(optics: Optics, key: Array, image: Array) -> Array:
    """The image itself, randomly flipped and cropped: f32[1, H, W, C]."""
    return turns(optics, key, image, 1)


def rotated(optics: Optics, key: Array, image: Array) -> Array:
    """The four rotations of SSKD, f32[4, H, W, C]: one flip for all, and a new crop for each."""
    return turns(optics, key, image, 4)


def turned(optics: Optics, key: Array, image: Array) -> Array:
    """The four rotations of HSAKD, f32[4, H, W, C]: of one view, so all share its flip and crop."""
    (view,) = once(optics, key, image)
    return jnp.stack([jnp.rot90(view, k) for k in range(4)])


def strong(optics: Optics, key: Array, image: Array) -> Array:
    """The image randomly flipped and cropped, then strongly distorted: f32[1, H, W, 3].

    It is random even with `Optics.plain`, so it is a view for training alone.
    """
    place, distortion = jax.random.split(key)
    (view,) = raw_turns(optics, place, image, 1)
    return normalise(distort(distortion, view)[None], optics)


def repeated(optics: Optics, key: Array, image: Array) -> Array:
    """`once`, four times, each with a new flip and crop: f32[4, H, W, C]."""
    return jnp.concatenate([once(optics, own, image) for own in jax.random.split(key, 4)])


def turns(optics: Optics, key: Array, image: Array, count: int) -> Array:
    """View k of `count` is the image turned counter-clockwise by k * 90 degrees."""
    return normalise(raw_turns(optics, key, image, count), optics)


def raw_turns(optics: Optics, key: Array, image: Array, count: int) -> Array:
    """`turns` before the normalisation: u8[count, H, W, C]."""
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

    It is the image shifted by `pad` pixels at most.
    """
    # Zero before normalisation is black, not the mean colour.
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


def normalise(view: Array, optics: Optics) -> Array:
    """Levels from 0 to 255 [V, H, W, C] as f32, normalised by the mean and std of `optics`."""
    mean, std = (
        jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in (optics.mean, optics.std)
    )
    return (view.astype(jnp.float32) / 255 - mean) / std


# Views of contrastive learning, for training alone: held-out images are seen by `once`.

GREY = (0.299, 0.587, 0.114)  # the weights of the colours in the perceived brightness
# Brightness and two differences of colours (YIQ), in which the hue is an angle.
YIQ = (GREY, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def coloured(strength: float, optics: Optics, key: Array, image: Array) -> Array:
    """`once` with its colours jittered: f32[1, H, W, C].

    Brightness, contrast and saturation change by a factor of up to 1 +- `strength` each.
    """
    view = raw_turns(optics, key, image, 1)[0].astype(jnp.float32) / 255
    view = jittered(jax.random.fold_in(key, 1), view, strength, 0.0)
    return normalise(255 * view[None], optics)


def distorted(optics: Optics, key: Array, image: Array) -> Array:
    """The view of MoCo v2 (Chen, Fan, Girshick, He 2020): f32[1, H, W, C].

    A part of the image, enlarged; with probability .8 its colours jittered, .2 in grey, .5 blurred;
    flipped where `optics` flips. `optics.pad` has no effect.
    """
    crop_key, colour_key, blur_key, chance_key = jax.random.split(key, 4)
    jitters, is_grey, blurs, flips = jax.random.uniform(chance_key, (4,)) < jnp.array(
        [0.8, 0.2, 0.5, 0.5]
    )
    view = resized_crop(crop_key, image.astype(jnp.float32) / 255, 0.2)
    view = jnp.where(jitters, jittered(colour_key, view, 0.4, 0.1), view)
    view = jnp.where(is_grey, grey(view), view)
    view = jnp.where(blurs, blurred(blur_key, view), view)
    view = jnp.where(flips & optics.flip, view[:, ::-1], view)
    return normalise(255 * view[None], optics)


def exemplar(optics: Optics, key: Array, image: Array) -> Array:
    """`once`, then three enlarged parts of the image with jittered colours: f32[4, H, W, C].

    A part has 8 % of the image's area or more. These numbers are those of a reimplementation of
    SSKD's exemplar task; the paper's are not known.
    """

    def part(key: Array) -> Array:
        crop_key, colour_key, flip_key = jax.random.split(key, 3)
        view = jittered(colour_key, resized_crop(crop_key, image / 255, 0.08), 0.4, 0.1)
        flips = jax.random.bernoulli(flip_key) & optics.flip
        return jnp.where(flips, view[:, ::-1], view)

    first, *others = jax.random.split(key, 4)
    parts = jax.vmap(part)(jnp.stack(others))
    return jnp.concatenate([once(optics, first, image), normalise(255 * parts, optics)])


def transformed(optics: Optics, key: Array, image: Array) -> Array:
    """`once`, and three transformed views: f32[4, H, W, C].

    Each is flipped and cropped anew, and then changed by one of the paper's four transformations
    (Xu et al., ECCV 2020), drawn at random: a turn by 90, 180 or 270 degrees, grey, an enlarged
    part of the image, or jittered colours. How strong the last two are is not known; here they are
    as in `exemplar`.
    """

    def one(key: Array) -> Array:
        place, choice, turn, own = jax.random.split(key, 4)
        (view,) = raw_turns(optics, place, image, 1)
        pool = [
            lambda view: jax.lax.switch(
                jax.random.randint(turn, (), 0, 3),
                [lambda view, k=k: jnp.rot90(view, k) for k in (1, 2, 3)],
                view,
            ),
            grey,
            lambda view: resized_crop(own, view, 0.08),
            lambda view: jittered(own, view, 0.4, 0.1),
        ]
        return jax.lax.switch(jax.random.randint(choice, (), 0, len(pool)), pool, view / 255)

    first, *others = jax.random.split(key, 4)
    rest = jax.vmap(one)(jnp.stack(others))
    return jnp.concatenate([once(optics, first, image), normalise(255 * rest, optics)])


def resized_crop(key: Array, image: Array, least: float) -> Array:
    """A random part of a square image [H, H, C], resized to the image's size, bilinear.

    The part's area is `least` to 1 of the image's, and its width is 3/4 to 4/3 of its height; a
    side that would be longer than the image is cut off.
    """
    size = image.shape[0]
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (), minval=least, maxval=1.0)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (), minval=-1.0) * jnp.log(4 / 3))
    sides = jnp.minimum(jnp.sqrt(area * jnp.stack([1 / ratio, ratio])), 1.0) * size
    corner = jax.random.uniform(place_key, (2,)) * (size - sides)
    return cut(image, corner, sides)


def cut(image: Array, corner: Array, sides: Array) -> Array:
    """The part of an image [H, W, C] from corner f32[2] on, resized to the image's size, bilinear.

    `sides` f32[2] are the part's height and width.
    """
    scale = jnp.asarray(image.shape[:2]) / sides
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), scale, -corner * scale, "linear", antialias=False
    )


def jittered(key: Array, image: Array, strength: float, hue: float) -> Array:
    """An image [H, W, C] in [0, 1] with jittered colours.

    Its brightness, contrast and saturation change, in this order, by a factor of up to
    1 +- `strength` each; then its hue turns by up to `hue` of a full turn to either side.
    """
    factor_key, turn_key = jax.random.split(key)
    factors = jax.random.uniform(factor_key, (3,), minval=1 - strength, maxval=1 + strength)
    image = jnp.clip(factors[0] * image, 0, 1)
    mean = jnp.mean(grey(image))
    image = jnp.clip(mean + factors[1] * (image - mean), 0, 1)
    image = jnp.clip(grey(image) + factors[2] * (image - grey(image)), 0, 1)
    if hue:
        turn = 2 * jnp.pi * jax.random.uniform(turn_key, (), minval=-hue, maxval=hue)
        image = jnp.clip(turned_hue(image, turn), 0, 1)
    return image


def grey(image: Array) -> Array:
    """An image [H, W, C] without its colours."""
    bright = jnp.matmul(image, jnp.asarray(GREY), precision="highest")
    return jnp.broadcast_to(bright[..., None], image.shape)


def turned_hue(image: Array, turn: Array) -> Array:
    """The colours of an image [H, W, 3] turned by an angle around grey."""
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    turning = jnp.array([[1.0, 0, 0], [0, cos, -sin], [0, sin, cos]])
    there, back = jnp.asarray(YIQ), jnp.asarray(np.linalg.inv(YIQ), jnp.float32)
    colours = jnp.linalg.multi_dot([back, turning, there], precision="highest")
    return jnp.matmul(image, colours.T, precision="highest")


def blurred(key: Array, image: Array) -> Array:
    """A square image [H, H, C], blurred by a Gaussian with a deviation of .1 to 2 times H / 224."""
    size = image.shape[0]
    sigma = jax.random.uniform(key, (), minval=0.1, maxval=2.0) * size / 224
    place = jnp.arange(size, dtype=jnp.float32)
    distance = (place[:, None] - place[None]) / sigma
    weights = jax.nn.softmax(-jnp.square(distance) / 2)
    return jnp.einsum("ih,hwc,jw->ijc", weights, image, weights, precision="highest")
