"""JPEG bytes to uint8 images of one size, as TensorFlow graphs: decoding and cropping are one operation.

The distribution of training crops is that of PyTorch's ImageNet example (torchvision's RandomResizedCrop), and the
evaluation crop is its Resize and CenterCrop.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

SCALES = (1, 2, 4, 8)  # by which a JPEG can be shrunk while it is decoded
TRIES = 10  # to fit a random crop into an image
Range = tuple[float, float]  # least and largest
FIELDS = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
    "file_name": tf.io.FixedLenFeature([], tf.string, ""),
}


def labels(records: Sequence[bytes]) -> np.ndarray:
    """i32[N] of serialized examples."""
    return (
        tf.io.parse_example(records, {"label": FIELDS["label"]})["label"].numpy().astype(np.int32)
    )


def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(JPEG, label i32, file name) of a serialized example."""
    fields = tf.io.parse_single_example(record, FIELDS)
    return fields["image"], tf.cast(fields["label"], tf.int32), fields["file_name"]


def or_black(
    decode: Callable[..., tf.Tensor], shape: Sequence[int]
) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """A function of a JPEG and a seed that returns (what `decode` does, True), or (black, False) where that fails.

    A graph has no try: what fails is left out of a dataset of one image, and then the black one is its first.
    """

    def decode_or_not(content: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = (
            tf.data.Dataset.from_tensors(content)
            .map(lambda content: (decode(content, seed), True))
            .ignore_errors()
        )
        black = tf.data.Dataset.from_tensors((tf.zeros(shape, tf.uint8), False))
        return found.concatenate(black).take(1).get_single_element()

    return decode_or_not


def random_box(
    height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor, scale: Range, ratio: Range
) -> tf.Tensor:
    """(top, left, height, width) f32[4], whole numbers, of the first of ten random crops that fits the image.

    Where none does, it is the largest in the middle whose shape `ratio` allows.
    """
    draw = tf.random.stateless_uniform([4, TRIES], seed)
    low, high = (math.log(bound) for bound in ratio)
    area, shape = height * width * between(*scale, draw[0]), tf.exp(between(low, high, draw[1]))
    widths, heights = tf.round(tf.sqrt(area * shape)), tf.round(tf.sqrt(area / shape))
    fits = (widths >= 1) & (heights >= 1) & (widths <= width) & (heights <= height)
    first = tf.argmax(fits)
    top = tf.floor(draw[2] * (height - heights + 1))
    left = tf.floor(draw[3] * (width - widths + 1))
    return tf.where(
        tf.reduce_any(fits),
        tf.stack([top, left, heights, widths])[:, first],
        middle_box(height, width, ratio),
    )


def between(low: float, high: float, share: tf.Tensor) -> tf.Tensor:
    return low + (high - low) * share


def middle_box(height: tf.Tensor, width: tf.Tensor, ratio: Range) -> tf.Tensor:
    """The largest box in the middle whose width over height is within `ratio`."""
    box_width = tf.minimum(width, tf.round(height * ratio[1]))
    box_height = tf.minimum(height, tf.round(width / ratio[0]))
    return tf.stack(
        [
            tf.floor((height - box_height) / 2),
            tf.floor((width - box_width) / 2),
            box_height,
            box_width,
        ]
    )


def decode_random(
    content: tf.Tensor, seed: tf.Tensor, *, size: int, scale: Range, ratio: Range
) -> tf.Tensor:
    """A random crop uint8[size, size, 3] of a JPEG, which the two numbers of `seed` decide."""
    height, width = dimensions(content)
    box = random_box(height, width, seed, scale, ratio)
    image = decode(content, box, tf.minimum(box[2], box[3]) / size)
    return tf.cast(tf.image.resize(image, [size] * 2) + 0.5, tf.uint8)


def decode_centre(
    content: tf.Tensor, seed: tf.Tensor | None, *, size: int, resize: int
) -> tf.Tensor:
    """The centre uint8[size, size, 3] of a JPEG whose shorter side is brought to `resize` pixels.

    No `seed` matters. Resizing weighs all pixels that a new one covers, as PIL does; of a huge image, fewer.
    """
    height, width = dimensions(content)
    shorter = tf.minimum(height, width)
    image = decode(content, tf.stack([0.0, 0.0, height, width]), shorter / resize / 2, exact=True)
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    target = tf.floor(tf.stack([height, width]) * resize / shorter)
    corner = tf.round((target - size) / 2)
    image = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[size] * 2,
        scale=target / sides,
        translation=-corner,
        kernel_type="triangle",
        antialias=True,
    )[0]
    return tf.cast(tf.clip_by_value(image, 0, 255) + 0.5, tf.uint8)


def dimensions(content: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width, f32."""
    shape = tf.cast(tf.io.extract_jpeg_shape(content), tf.float32)
    return shape[0], shape[1]


def decode(content: tf.Tensor, box: tf.Tensor, spare: tf.Tensor, exact: bool = False) -> tf.Tensor:
    """The box of a JPEG as uint8[H, W, 3], shrunk by the largest of `SCALES` that is not above `spare`.

    If not `exact`, colours are off by a grey level or two, in less time.
    """
    branch = tf.searchsorted(tf.constant(SCALES[1:], tf.float32), spare[None], side="right")[0]
    return tf.switch_case(
        branch,
        [
            lambda scale=scale: tf.io.decode_and_crop_jpeg(
                content,
                tf.cast(tf.maximum(tf.floor(box / scale), [0, 0, 1, 1]), tf.int32),
                channels=3,
                ratio=scale,
                fancy_upscaling=exact,
                dct_method="INTEGER_ACCURATE" if exact else "INTEGER_FAST",
            )
            for scale in SCALES
        ],
    )
