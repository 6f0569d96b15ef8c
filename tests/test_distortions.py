"""Strong distortions against Pillow's, whose pixels were recorded, and what is drawn of them."""

import zlib

import jax
import numpy as np
import pytest

from sskd_jax import distortions
from sskd_jax.distortions import GREY, LEVELS, OPERATIONS, cut_out, distort, operated

IMAGE = 40 + np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8) // 2
STRENGTHS = (0.31, 0.77)

# CRC-32 of the bytes of Pillow 13.0's images, by operation and strength.
PILLOW = {
    "autocontrast": (3771516386, 3771516386),
    "equalize": (1929345265, 1929345265),
    "identity": (365675340, 365675340),
    "brightness": (779111865, 492502654),
    "colour": (4228453833, 3453548091),
    "contrast": (3335365496, 138360194),
    "sharpness": (635223126, 3026024258),
    "posterize": (1342200828, 429793428),
    "solarize": (3268035982, 365675340),
    "rotate": (2674959969, 1850612811),
    "shear_x": (4198382958, 948890438),
    "shear_y": (1677639160, 1202796262),
    "translate_x": (1868715223, 2734353840),
    "translate_y": (3850028531, 3969362974),
}


@pytest.mark.parametrize("name", PILLOW)
def test_an_operation_gives_the_pixels_of_pillow(name):
    number = list(PILLOW).index(name)
    for strength, expected in zip(STRENGTHS, PILLOW[name], strict=True):
        found = np.asarray(jax.jit(operated)(IMAGE.astype(np.int32), number, np.float32(strength)))
        assert found.dtype == np.int32 and found.min() >= 0 and found.max() <= 255
        assert zlib.crc32(found.astype(np.uint8).tobytes()) == expected


def test_every_operation_was_recorded():
    assert list(PILLOW) == [operation.__name__ for operation in OPERATIONS]


def test_an_image_of_one_level_stays_finite():
    flat = np.full((8, 8, 3), 7, np.int32)
    for operation in LEVELS[:3]:
        np.testing.assert_array_equal(operation(flat, np.float32(0.5)), flat)


@pytest.mark.parametrize(
    ("centre", "side", "rows", "columns"),
    [
        ((8.0, 8.0), 4.0, (6, 10), (6, 10)),
        ((8.6, 3.2), 3.0, (7, 10), (1, 4)),
        ((0.5, 15.9), 8.0, (0, 8), (11, 15)),  # cut off at the edges
        ((4.3, 4.3), 0.2, (4, 4), (4, 4)),
    ],
)
def test_the_square_with_both_of_its_ends(centre, side, rows, columns):
    image = IMAGE.astype(np.int32)
    expected = image.copy()
    expected[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = GREY
    np.testing.assert_array_equal(cut_out(image, np.float32(centre), np.float32(side)), expected)


def test_images_are_distorted_each_in_its_own_way():
    keys = jax.random.split(jax.random.key(0), 200)
    found = np.asarray(jax.jit(jax.vmap(distort, (0, None)))(keys, IMAGE))
    assert found.shape == (200, *IMAGE.shape) and found.min() >= 0 and found.max() <= 255
    assert len({image.tobytes() for image in found}) == 200
    is_grey = (found == np.array(GREY)).all(-1)
    # The side is uniform up to half the image's, and what lies outside is lost.
    assert 0.07 < is_grey.mean() < 0.12 and is_grey.mean((1, 2)).max() < 0.33
    # The places of the squares are everywhere alike, but fewer at the edges.
    assert (is_grey.any(0)).all()


def test_two_operations_follow_each_other(monkeypatch):
    monkeypatch.setattr(distortions, "operated", lambda image, number, strength: 2 * image + 1)
    monkeypatch.setattr(distortions, "cut_out", lambda image, centre, side: image)
    found = distortions.distort(jax.random.key(0), np.full((4, 4, 3), 5, np.uint8))
    np.testing.assert_array_equal(found, np.full((4, 4, 3), 23))
