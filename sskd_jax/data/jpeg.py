"""JPEG files to uint8 images of one size, as TensorFlow graphs; training decodes only the crop.

Training crops are distributed as in PyTorch's ImageNet example, by torchvision's RandomResizedCrop;
evaluation images are cropped by its Resize and CenterCrop. `scale` is the smallest and the largest
share of an image's area that a random crop covers, `ratio` the smallest and the largest width over
height of the crop.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

SCALES = (1, 2, 4, 8)  # factors by which a JPEG can be shrunk while it is decoded
TRIES = 10  # attempts to fit a random crop into an image
Range = tuple[float, float]  # least and largest
FIELDS = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
    "file_name": tf.io.FixedLenFeature([], tf.string, ""),
}


def labels(records: Sequence[bytes]) -> np.ndarray:
    """The labels i32[N] of N serialized examples."""
    fields = tf.io.parse_example(records, {"label": FIELDS["label"]})
    return fields["label"].numpy().astype(np.int32)


def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(JPEG file, label i32[], file name) of a serialized example."""
    fields = tf.io.parse_single_example(record, FIELDS)
    return fields["image"], tf.cast(fields["label"], tf.int32), fields["file_name"]


def or_black(
    decode: Callable[..., tf.Tensor], shape: Sequence[int]
) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """A decoder that tolerates damaged files: (JPEG file, seed) -> (image, whether it is sound).

    Args:
      decode: (JPEG file, seed) -> image, which fails if the file is damaged.
      shape: [H, W, C] of the black image that replaces a damaged one.
    """

    def decode_one(content: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def decode_sound(content: tf.Tensor) -> tuple[tf.Tensor, bool]:
            return decode(content, seed), True

        # A graph has no try, but a dataset can skip elements that fail. This one has the decoded
        # image and a black one; its first element is the black one if decoding fails.
        decoded = tf.data.Dataset.from_tensors(content).map(decode_sound).ignore_errors()
        black = tf.data.Dataset.from_tensors((tf.zeros(shape, tf.uint8), False))
        return decoded.concatenate(black).take(1).get_single_element()

    return decode_one


def random_box(
    height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor, scale: Range, ratio: Range
) -> tf.Tensor:
    """The box of a random crop: (top, left, height, width) f32[4], whole numbers of pixels.

    It is the first of ten random boxes that fits the image. If none does, it is the largest central
    box that `ratio` allows, as in torchvision's RandomResizedCrop.get_params.

    Args:
      height: of the image, f32[]; width likewise.
      seed: i64[2].
    """
    # For every attempt: area, shape, top and left, as shares of their ranges.
    draw = tf.random.stateless_uniform([4, TRIES], seed)
    area = height * width * interpolate(*scale, draw[0])
    shape = tf.exp(interpolate(math.log(ratio[0]), math.log(ratio[1]), draw[1]))
    widths, heights = tf.round(tf.sqrt(area * shape)), tf.round(tf.sqrt(area / shape))
    fits = (widths >= 1) & (heights >= 1) & (widths <= width) & (heights <= height)
    tops = tf.floor(draw[2] * (height - heights + 1))
    lefts = tf.floor(draw[3] * (width - widths + 1))
    first = tf.stack([tops, lefts, heights, widths])[:, tf.argmax(fits)]
    return tf.where(tf.reduce_any(fits), first, middle_box(height, width, ratio))


def interpolate(low: float, high: float, share: tf.Tensor) -> tf.Tensor:
    return low + (high - low) * share


def middle_box(height: tf.Tensor, width: tf.Tensor, ratio: Range) -> tf.Tensor:
    """(top, left, height, width) f32[4] of the largest central box that `ratio` allows."""
    box_width = tf.minimum(width, tf.round(height * ratio[1]))
    box_height = tf.minimum(height, tf.round(width / ratio[0]))
    top = tf.floor((height - box_height) / 2)
    left = tf.floor((width - box_width) / 2)
    return tf.stack([top, left, box_height, box_width])


def decode_random(
    content: tf.Tensor, seed: tf.Tensor, *, size: int, scale: Range, ratio: Range
) -> tf.Tensor:
    """A random crop of a JPEG file, uint8[size, size, 3], determined by seed i64[2]."""
    height, width = dimensions(content)
    box = random_box(height, width, seed, scale, ratio)
    image = decode(content, box, tf.minimum(box[2], box[3]) / size)
    return tf.cast(tf.image.resize(image, [size] * 2) + 0.5, tf.uint8)


def decode_centre(
    content: tf.Tensor, seed: tf.Tensor | None, *, size: int, resize: int
) -> tf.Tensor:
    """The centre of a JPEG file, uint8[size, size, 3].

    As in PIL, the whole image is decoded, and resizing averages all pixels that a new pixel covers.

    Args:
      content: the file.
      seed: without effect; `decode_random` has the same arguments.
      size: the side of the result, in pixels.
      resize: the length of the shorter side, in pixels, before the centre is cut out.
    """
    height, width = dimensions(content)
    shorter = tf.minimum(height, width)
    sides = tf.stack([height, width])
    resized_sides = tf.floor(sides * resize / shorter)
    corner = tf.round((resized_sides - size) / 2)  # of the centre in the resized image
    image = tf.raw_ops.ScaleAndTranslate(
        images=tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")[None],
        size=[size] * 2,
        scale=resized_sides / sides,
        translation=-corner,
        kernel_type="triangle",
        antialias=True,
    )[0]
    return tf.cast(tf.clip_by_value(image, 0, 255) + 0.5, tf.uint8)


def dimensions(content: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width f32[] of a JPEG file, in pixels."""
    shape = tf.cast(tf.io.extract_jpeg_shape(content), tf.float32)
    return shape[0], shape[1]


def decode(content: tf.Tensor, box: tf.Tensor, spare: tf.Tensor) -> tf.Tensor:
    """A box of a JPEG file as uint8[H, W, 3], shrunk while it is decoded.

    It is decoded in the fast way: between their samples, colours are repeated and not interpolated,
    and the cosine transform is rounded more. docs/deviations.md says how much that changes.

    Args:
      content: the file.
      box: (top, left, height, width) f32[4], in pixels of the whole image.
      spare: f32[], the factor by which it may be shrunk; the largest of `SCALES` that is not above
        it is taken, or 1.
    """

    def branch(scale: int) -> Callable[[], tf.Tensor]:
        def decode_at_scale() -> tf.Tensor:
            # (top, left, height, width) of the box in the shrunk image, of one pixel at least.
            window = tf.maximum(tf.floor(box / scale), [0, 0, 1, 1])
            return tf.io.decode_and_crop_jpeg(
                content,
                tf.cast(window, tf.int32),
                channels=3,
                ratio=scale,
                fancy_upscaling=False,
                dct_method="INTEGER_FAST",
            )

        return decode_at_scale

    # The number of scales above 1 that are not above `spare`.
    larger = tf.constant(SCALES[1:], tf.float32)
    index = tf.searchsorted(larger, spare[None], side="right")[0]
    return tf.switch_case(index, [branch(scale) for scale in SCALES])
