"""Strong augmentation of one image: two random distortions, then a grey square.

They are RandAugment's operations and Cutout (Cubuk et al. 2020; DeVries, Taylor 2017) as in the
released code of MLKD. Each computes as PIL does: with integer levels, which are rounded down, the
nearest pixel, and black outside the image. An operation changes either levels or places; its
strength f32[], from 0 to 1, runs through the operation's own range.
"""

import jax
import jax.numpy as jnp

from sskd_jax.types import Array

GREY = (125, 123, 114)  # the colour of the square
LARGEST_SQUARE = 0.5  # the longest side of the square, relative to the image's height


def within(low: float, high: float, strength: Array) -> Array:
    return low + (high - low) * strength


def identity(image: Array, strength: Array) -> Array:
    return image


def autocontrast(image: Array, strength: Array) -> Array:
    """Every channel stretched to the range from 0 to 255."""
    low, high = (f(image, (0, 1), keepdims=True) for f in (jnp.min, jnp.max))
    return jnp.where(high > low, (image - low) * 255 // jnp.maximum(high - low, 1), image)


def equalize(image: Array, strength: Array) -> Array:
    """Every channel changed so that all its levels are about equally frequent."""
    return jax.vmap(equalize_channel, 2, 2)(image)


def equalize_channel(channel: Array) -> Array:
    """Histogram equalization of a channel i32[H, W].

    As in PIL, the pixels of the brightest level are not counted in the size of a step.
    """
    count = jnp.zeros(256, jnp.int32).at[channel.ravel()].add(1)
    step = (channel.size - count[channel.max()]) // 255
    below = jnp.cumsum(count) - count
    table = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table[channel], channel)


def lightness(image: Array) -> Array:
    """The lightness i32[H, W, 1] of an image, by the weights of ITU-R 601."""
    red, green, blue = (image[..., i : i + 1] for i in range(3))
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def blended(image: Array, other: Array, strength: Array) -> Array:
    """A mixture of two images, with a weight of .05 to .95 for the first one, by the strength."""
    factor = within(0.05, 0.95, strength)
    return jnp.floor(other + factor * (image - other)).astype(jnp.int32)


def brightness(image: Array, strength: Array) -> Array:
    return blended(image, jnp.zeros_like(image), strength)


def colour(image: Array, strength: Array) -> Array:
    return blended(image, jnp.broadcast_to(lightness(image), image.shape), strength)


def contrast(image: Array, strength: Array) -> Array:
    mean = jnp.floor(lightness(image).mean() + 0.5).astype(jnp.int32)
    return blended(image, jnp.full_like(image, mean), strength)


def sharpness(image: Array, strength: Array) -> Array:
    """Mixed with a smoothed image: 5/13 of a pixel, 1/13 of each neighbour; its border is kept."""
    height, width = image.shape[:2]
    shifts = [(i, j) for i in range(3) for j in range(3)]
    total = sum(image[i : height - 2 + i, j : width - 2 + j] for i, j in shifts)
    inner = (2 * (total + 4 * image[1:-1, 1:-1]) + 13) // 26  # rounded to the nearest level
    return blended(image, image.at[1:-1, 1:-1].set(inner), strength)


def posterize(image: Array, strength: Array) -> Array:
    """Keeps the four to seven highest bits of every level."""
    bits = within(4, 8, strength).astype(jnp.int32)
    return image >> (8 - bits) << (8 - bits)


def solarize(image: Array, strength: Array) -> Array:
    """Inverts all levels at or above a threshold."""
    return jnp.where(image < within(0, 256, strength), image, 255 - image)


# (image i32[H, W, 3] from 0 to 255, strength) -> i32[H, W, 3]
LEVELS = (
    autocontrast,
    equalize,
    identity,
    brightness,
    colour,
    contrast,
    sharpness,
    posterize,
    solarize,
)


def moved(image: Array, place: Array) -> Array:
    """Takes the pixel at (row, column) for (y, x), or black.

    Both are a y + b x + c of its centre; `place` f32[2, 3] has their (a, b, c).
    """
    height, width = image.shape[:2]
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    rows, columns = (jnp.floor(a * y + b * x + c) for a, b, c in place)
    is_inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    found = image[tuple(place.astype(jnp.int32) for place in places)]
    return jnp.where(is_inside[..., None], found, 0)


def rotate(height: int, width: int, strength: Array) -> Array:
    """Rotates about the centre, by up to 30 degrees either way."""
    angle = jnp.deg2rad(within(-30, 30, strength))
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    y, x = height / 2, width / 2
    row = [cosine, sine, y - cosine * y - sine * x]
    column = [-sine, cosine, x + sine * y - cosine * x]
    return jnp.array([row, column])


def shear_x(height: int, width: int, strength: Array) -> Array:
    return jnp.array([[1, 0, 0], [within(-0.3, 0.3, strength), 1, 0]])


def shear_y(height: int, width: int, strength: Array) -> Array:
    return jnp.array([[1, within(-0.3, 0.3, strength), 0], [0, 1, 0]])


def translate_x(height: int, width: int, strength: Array) -> Array:
    return jnp.array([[1, 0, 0], [0, 1, within(-0.3, 0.3, strength) * width]])


def translate_y(height: int, width: int, strength: Array) -> Array:
    return jnp.array([[1, 0, within(-0.3, 0.3, strength) * height], [0, 1, 0]])


# (height, width, strength) -> what `moved` takes
MOVES = (rotate, shear_x, shear_y, translate_x, translate_y)
OPERATIONS = (*LEVELS, *MOVES)


def operated(image: Array, number: Array, strength: Array) -> Array:
    """An image i32[H, W, 3] after the operation with a number."""
    is_move = number >= len(LEVELS)
    level = jnp.where(is_move, LEVELS.index(identity), number)
    image = jax.lax.switch(level, LEVELS, image, strength)
    # For a batch of images, all operations are computed for each; but pixels are moved once.
    still = jnp.array([[1.0, 0, 0], [0, 1, 0]])
    places = jnp.stack([still, *(move(*image.shape[:2], strength) for move in MOVES)])
    return moved(image, places[jnp.where(is_move, number - len(LEVELS) + 1, 0)])


def cut_out(image: Array, centre: Array, side: Array) -> Array:
    """The image with a grey square around centre f32[2] (y, x), cut off at the image's edges."""
    height, width = image.shape[:2]
    marked = []
    for middle, size in zip(centre, (height, width), strict=True):
        start = jnp.floor(jnp.maximum(middle - side / 2, 0))
        stop = jnp.minimum(start + side, size)  # inclusive, as in PIL
        place = jnp.arange(size)
        marked.append((place >= start) & (place <= stop))
    is_marked = marked[0][:, None] & marked[1][None]
    return jnp.where(is_marked[..., None], jnp.array(GREY, image.dtype).reshape(1, 1, 3), image)


def distort(key: Array, image: Array) -> Array:
    """Applies two random operations to u8[H, W, 3], then draws the square: i32[H, W, 3].

    The operations are drawn with replacement.
    """
    first, second, square = jax.random.split(key, 3)
    image = image.astype(jnp.int32)
    for drawn in (first, second):
        which, strength = jax.random.split(drawn)
        number = jax.random.randint(which, (), 0, len(OPERATIONS))
        image = operated(image, number, jax.random.uniform(strength))
    share, *centre = jax.random.uniform(square, (3,))
    size = jnp.array(image.shape[:2])
    side = LARGEST_SQUARE * share * size[0]
    return cut_out(image, jnp.array(centre) * size, side)
