"""JPEG to pixels against PIL, which PyTorch's loaders use, and the distribution of the crops."""

import io
import math

import numpy as np
import pytest
import tensorflow as tf
from pictures import jpeg as encoded
from pictures import picture
from PIL import Image
from scipy.stats import ks_2samp

from sskd_jax.data import jpeg
from sskd_jax.data.stream import Framing
from sskd_jax.exchange.classifier import read_image
from sskd_jax.types import UserError

FRAMING = Framing(224, 256, (0.08, 1.0), (3 / 4, 4 / 3))
CENTRE = {"size": 224, "resize": 256}
CROP = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


def centre_by_pil(content: bytes, framing: Framing) -> np.ndarray:
    """torchvision's Resize and CenterCrop."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    width, height = image.size
    shorter = min(width, height)
    sides = [int(framing.resize * side / shorter) for side in (width, height)]
    image = image.resize(sides, Image.BILINEAR)
    left, top = (round((side - framing.size) / 2) for side in image.size)
    return np.asarray(image.crop((left, top, left + framing.size, top + framing.size)), int)


@pytest.mark.parametrize(
    "height,width", [(375, 500), (500, 333), (256, 256), (100, 130), (600, 800)]
)
def test_the_centre_is_torchvisions(height, width, tmp_path):
    """Where it is evaluated, and where `predict` reads the image."""
    content = encoded(picture(height, height, width))
    expected = centre_by_pil(content, FRAMING)
    ours = jpeg.decode_centre(content, None, **CENTRE).numpy()
    assert ours.shape == (224, 224, 3) and ours.dtype == np.uint8
    assert np.abs(ours - expected).max() <= 3
    (tmp_path / "image.jpg").write_bytes(content)
    np.testing.assert_array_equal(read_image(tmp_path / "image.jpg", **CENTRE), expected)


@pytest.mark.parametrize("bands", ["L", "CMYK"])
def test_grey_and_cmyk_have_pils_colours(bands):
    parts = [picture(seed, 300, 400).convert("L") for seed in range(len(bands))]
    content = encoded(Image.merge(bands, parts))
    ours = jpeg.decode_centre(content, None, **CENTRE).numpy()
    assert np.abs(ours - centre_by_pil(content, FRAMING)).max() <= 2
    crop = jpeg.decode(content, tf.constant([100.0, 80, 64, 48]), tf.constant(1.0)).numpy()
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), int)
    assert np.abs(crop - pixels[100:164, 80:128]).max() <= 3


def test_an_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "large.jpg").write_bytes(encoded(picture(0, 20, 20)))
    with pytest.raises(UserError, match="large.jpg is no image that can be read"):
        read_image(tmp_path / "large.jpg", **CENTRE)


@pytest.mark.parametrize("size,resize", [(224, 256), (64, 73)])
def test_centres_of_real_images_are_torchvisions(size, resize, shared):
    framing = FRAMING._replace(size=size, resize=resize)
    files = sorted((shared / "data/imagenet_samples").glob("*.JPEG"))
    assert len(files) == 100
    for file in files[::5]:
        content = file.read_bytes()
        ours = jpeg.decode_centre(content, None, size=size, resize=resize).numpy()
        distance = np.abs(ours - centre_by_pil(content, framing))
        assert distance.max() <= 4 and distance.mean() < 0.3, file.name


def test_the_centre_of_a_huge_image_is_torchvisions_too():
    content = encoded(picture(5, 2100, 3000))
    ours = jpeg.decode_centre(content, None, **CENTRE).numpy()
    assert np.abs(ours - centre_by_pil(content, FRAMING)).max() <= 1


def boxes(height: int, width: int, count: int = 600) -> np.ndarray:
    """[count, 4] of top, left, height, width."""
    sides = tf.constant(float(height)), tf.constant(float(width))
    draw = tf.function(lambda seed: jpeg.random_box(*sides, seed, **CROP))
    return np.stack([draw(tf.constant([1, i], tf.int64)).numpy() for i in range(count)])


def boxes_by_numpy(height: int, width: int, count: int = 4000) -> np.ndarray:
    """torchvision's RandomResizedCrop.get_params."""
    random, found = np.random.default_rng(0), []
    for _ in range(count):
        for _ in range(10):
            area = height * width * random.uniform(0.08, 1)
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                found.append(
                    (random.integers(0, height - h + 1), random.integers(0, width - w + 1), h, w)
                )
                break
    return np.asarray(found)


@pytest.mark.parametrize("height,width", [(300, 400), (64, 64)])
def test_random_crops_are_distributed_as_torchvisions(height, width):
    ours, theirs = boxes(height, width), boxes_by_numpy(height, width)
    assert (ours[:, :2] >= 0).all() and (ours[:, 2] >= 1).all() and (ours[:, 3] >= 1).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()
    assert ours.min(0)[0] == 0 and (ours[:, 0] + ours[:, 2]).max() == height
    for values in (
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
    ):
        assert ks_2samp(values(ours), values(theirs)).pvalue > 1e-3


@pytest.mark.parametrize(
    "height,width,expected", [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10))]
)
def test_an_image_that_no_crop_fits_gives_its_middle(height, width, expected):
    narrow = CROP | {"scale": (1.0, 1.0)}
    box = jpeg.random_box(
        tf.constant(float(height)), tf.constant(float(width)), tf.constant([0, 0]), **narrow
    )
    assert tuple(box.numpy()) == expected


@pytest.mark.parametrize("height,width", [(400, 600), (1900, 2000)])
def test_a_random_crop_is_that_of_its_box(height, width):
    """The larger image's crops are shrunk while they are decoded, so PIL's are shrunk, too."""
    content, image = encoded(picture(1, height, width)), picture(1, height, width)
    for i in range(6):
        seed = tf.constant([3, i], tf.int64)
        top, left, h, w = jpeg.random_box(
            tf.constant(float(height)), tf.constant(float(width)), seed, **CROP
        ).numpy()
        expected = image.crop((left, top, left + w, top + h)).resize((224, 224), Image.BILINEAR)
        ours = jpeg.decode_random(content, seed, size=224, **CROP).numpy().astype(int)
        assert np.abs(ours - np.asarray(expected, int)).mean() < 3


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("height,width", [(400, 600), (1900, 2000)])
def test_a_random_crop_is_where_its_box_is(height, width, axis):
    """On a ramp of grey, a crop that is off by two pixels of the result is lighter or darker."""
    ramp = np.linspace(0, 255, (height, width)[axis]).round().astype(np.uint8)
    levels = np.broadcast_to(np.expand_dims(ramp, 1 - axis), (height, width))
    content = encoded(Image.fromarray(np.repeat(levels[..., None], 3, -1)))
    for i in range(6):
        seed = tf.constant([3, i], tf.int64)
        sides = tf.constant(float(height)), tf.constant(float(width))
        top, left, h, w = jpeg.random_box(*sides, seed, **CROP).numpy()
        box = [slice(int(top), int(top + h)), slice(int(left), int(left + w))]
        ours = jpeg.decode_random(content, seed, size=224, **CROP).numpy().mean()
        assert abs(ours - levels[*box].mean() + 0.35) < 0.3  # decoding rounds down


def test_a_crop_is_shrunk_while_it_is_decoded_but_not_below_its_size(monkeypatch):
    shapes, real = [], jpeg.decode

    def decode(*args):
        shapes.append(real(*args).shape)
        return real(*args)

    monkeypatch.setattr(jpeg, "decode", decode)
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    content = encoded(picture(2, 128, 128))
    for size in (65, 64, 16, 8):
        jpeg.decode_random(content, tf.constant([0, 0], tf.int64), size=size, **whole)
    assert shapes == [(128, 128, 3), (64, 64, 3), (16, 16, 3), (16, 16, 3)]


def test_what_cannot_be_decoded_is_black_and_says_so():
    decode = jpeg.or_black(
        lambda content, seed: jpeg.decode_centre(content, seed, **CENTRE), (224, 224, 3)
    )
    good = encoded(picture(0))
    for content in (good[: len(good) // 2], b"", b"hello"):
        image, sound = decode(tf.constant(content), tf.constant([0, 0]))
        assert not sound and not image.numpy().any()
    image, sound = decode(tf.constant(good), tf.constant([0, 0]))
    assert sound and image.numpy().any()
