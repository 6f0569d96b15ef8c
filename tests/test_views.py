"""Views against plain numpy: each is looked for among all flips and crops of the image."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sskd_jax import views
from sskd_jax.axis import AXIS
from sskd_jax.distortions import distort
from sskd_jax.engine.task import viewer
from sskd_jax.views import (
    Optics,
    blurred,
    coloured,
    crop,
    cut,
    distorted,
    exemplar,
    grey,
    jittered,
    normalise,
    once,
    repeated,
    resized_crop,
    rotated,
    strong,
    transformed,
    turned_hue,
    turns,
)

PAD, SIZE = 2, 8
OPTICS = Optics(flip=True, pad=PAD, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
KEY = jax.random.key(3)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def reference(image: np.ndarray, k: int, flip: bool, top: int, left: int) -> np.ndarray:
    """Flip, rotate, pad, crop, normalise images [N, H, W, 3], in this order, in float64."""
    turned = np.rot90(image[:, :, ::-1] if flip else image, k, axes=(1, 2))
    padded = np.pad(turned, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    window = padded[:, top : top + SIZE, left : left + SIZE]
    return (window / 255.0 - OPTICS.mean) / OPTICS.std


def find(view: np.ndarray, image: np.ndarray, k: int) -> np.ndarray:
    """int[N, 3]: the only (flip, top, left) that gives view k of every image."""
    draws = np.array(list(itertools.product((0, 1), range(2 * PAD + 1), range(2 * PAD + 1))))
    distance = np.stack(
        [np.abs(view - reference(image, k, *draw)).max((1, 2, 3)) for draw in draws]
    )
    assert ((distance < 1e-5).sum(0) == 1).all()
    return draws[distance.argmin(0)]


@cache
def looking(optics: Optics, view=rotated):
    """A compiled step of training, as far as its views: (keys, images) -> [N, V, H, W, 3]."""
    return jax.jit(jax.vmap(partial(view, optics)))


def keys(position: np.ndarray) -> jax.Array:
    """The keys of the images at these positions of the whole batch, as the step folds them."""
    return jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.asarray(position))


def augmented(
    image: np.ndarray, position: np.ndarray, optics: Optics = OPTICS, view=rotated
) -> np.ndarray:
    """What one step of training makes of images at these positions of the whole batch."""
    return np.asarray(looking(optics, view)(keys(position), jnp.asarray(image)))


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    """int[N, V, 3]: the flip and the offset of every view of 300 images."""
    image = images(300)
    view = augmented(image, np.arange(300))
    assert view.shape == (300, 4, SIZE, SIZE, 3) and view.dtype == np.float32
    return np.stack([find(view[:, k], image, k) for k in range(4)], axis=1)


def test_flip_is_shared_and_fair(draws):
    flip = draws[..., 0]
    assert (flip == flip[:, :1]).all()
    assert 0.42 < flip.mean() < 0.58


def test_all_crops_occur_in_every_view(draws):
    for k in range(4):
        assert len({tuple(offset) for offset in draws[:, k, 1:]}) == (2 * PAD + 1) ** 2


def test_crops_are_independent(draws):
    """Of the views, of the two directions and of the flip.

    There is no correlation beyond chance, that is, four standard deviations.
    """
    columns = np.concatenate([draws[:, 0, :1], draws[:, :, 1:].reshape(300, 8)], axis=1)
    correlation = np.corrcoef(columns.T) - np.eye(9)
    assert np.abs(correlation).max() < 4 / 300**0.5


def test_a_view_depends_on_the_position_alone():
    image = images(8)
    whole = augmented(image, np.arange(8))
    np.testing.assert_array_equal(augmented(image[5:], np.arange(5, 8)), whole[5:])
    np.testing.assert_array_equal(augmented(image[::-1], np.arange(8)[::-1])[::-1], whole)
    assert not np.array_equal(augmented(image, np.arange(8) + 8), whole)


def test_without_flip_and_crop_only_the_rotations_are_left():
    image = images(20)
    still = augmented(image, np.arange(20), OPTICS.plain())
    turned = np.stack([np.rot90(image, k, axes=(1, 2)) for k in range(4)], 1)
    np.testing.assert_allclose(still, (turned / 255 - OPTICS.mean) / OPTICS.std, atol=1e-5)
    view = augmented(image, np.arange(20), OPTICS._replace(flip=False))
    assert not find(view[:, 0], image, 0)[:, 0].any()
    view = augmented(image, np.arange(20), OPTICS._replace(pad=0))
    assert (find(view[:, 0], image, 0)[:, 1:] == PAD).all()


def test_one_view_is_the_upright_one():
    """It is flipped and moved like those of four; its crop is a draw of its own."""
    image = images(60)
    view = augmented(image, np.arange(60), view=once)
    assert view.shape == (60, 1, SIZE, SIZE, 3)
    drawn = find(view[:, 0], image, 0)
    assert drawn[:, 0].any() and not drawn[:, 0].all()
    assert len({tuple(offset) for offset in drawn[:, 1:]}) > 15
    four = find(augmented(image, np.arange(60))[:, 0], image, 0)
    np.testing.assert_array_equal(drawn[:, 0], four[:, 0])


def test_turned_views_are_exact_rotations_of_the_one_view():
    image = images(20)
    (one,) = augmented(image, np.arange(20), view=once).swapaxes(0, 1)
    four = augmented(image, np.arange(20), view=views.turned)
    expected = np.stack([np.rot90(one, k, axes=(1, 2)) for k in range(4)], 1)
    np.testing.assert_array_equal(four, expected)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_view_zero_is_upright_and_the_others_turn_counter_clockwise(count):
    image = np.repeat(np.uint8([[[10], [20]], [[30], [40]]]), 3, axis=2)
    optics = Optics(flip=False, pad=0, mean=(0.0, 0.5, 0.0), std=(1.0, 1.0, 0.5))
    view = np.asarray(turns(optics, KEY, jnp.asarray(image), count))
    turned = [
        [[10, 20], [30, 40]],
        [[20, 40], [10, 30]],
        [[40, 30], [20, 10]],
        [[30, 10], [40, 20]],
    ]
    want = np.array(turned[:count]) / 255
    np.testing.assert_allclose(view, np.stack([want, want - 0.5, want * 2], axis=-1), atol=1e-6)
    assert view.dtype == np.float32


def test_plain_optics_keep_their_colours():
    assert OPTICS.plain() == Optics(flip=False, pad=0, mean=OPTICS.mean, std=OPTICS.std)


def test_a_crop_is_a_window_of_the_image_in_its_black_border():
    image = images(1)[0]
    for top, left in itertools.product((0, 1, 4), (0, 3)):
        padded = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)))
        window = padded[top : top + SIZE, left : left + SIZE]
        np.testing.assert_array_equal(crop(image, jnp.array([top, left]), PAD), window)
    np.testing.assert_array_equal(crop(image, jnp.array([PAD, PAD]), PAD), image)


def test_normalisation_is_by_channel():
    view = images(3)
    found = normalise(jnp.asarray(view), OPTICS)
    assert found.dtype == np.float32
    expected = (view / 255 - np.float64(OPTICS.mean)) / np.float64(OPTICS.std)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# Other colours, parts and blurs.


def test_without_strength_colours_stay():
    image = images(6)
    seen = augmented(image, np.arange(6), view=partial(coloured, 0.0))
    np.testing.assert_allclose(seen, augmented(image, np.arange(6), view=once), atol=1e-4)


def test_colours_change_in_numpy():
    """By three factors one after the other: of brightness, contrast and saturation."""
    image = np.random.default_rng(0).uniform(0.4, 0.6, (8, 8, 3)).astype(np.float32)
    found = jittered(KEY, image, 0.1, 0.0)
    factor_key, _ = jax.random.split(KEY)
    brightness, contrast, saturation = np.asarray(
        jax.random.uniform(factor_key, (3,), minval=0.9, maxval=1.1)
    )
    luma = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601
    expected = brightness * image
    mean = (expected @ luma).mean()
    expected = mean + contrast * (expected - mean)
    grey = (expected @ luma)[..., None]
    expected = grey + saturation * (expected - grey)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_hue_turns_by_a_share_of_a_full_turn():
    """With .5, by up to half a turn to either side, so a reddish grey may have any hue."""
    red = np.zeros((2, 2, 3), np.float32) + np.array([0.6, 0.4, 0.4], np.float32)
    random = jax.random.split(KEY, 60)
    seen, near = (
        np.asarray(jax.vmap(lambda key, hue=hue: jittered(key, red, 0.0, hue)[0, 0])(random))
        for hue in (0.5, 0.02)
    )
    spread = np.ptp(seen, axis=0)
    assert (spread > 0.15).all(), spread  # a turn in radians, 1/6 of this, changes less
    assert np.abs(near - red[0, 0]).max() < 0.04


def test_the_area_of_a_part_is_uniform():
    """Between .2 and 1 of the image: .6 in the mean, measured by how much a ramp is stretched."""
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32)[:, None, None], (32, 32, 3))
    random = jax.random.split(KEY, 300)
    rows, columns = (
        np.asarray(jax.vmap(lambda key, image=image: resized_crop(key, image, 0.2))(random))
        for image in (ramp, ramp.swapaxes(0, 1))
    )
    heights = rows[:, 20, 5, 0] - rows[:, 10, 5, 0]
    shares = heights * (columns[:, 5, 20, 0] - columns[:, 5, 10, 0]) / 100
    corners = rows[:, 10, 5, 0] - heights
    assert 0.55 < np.mean(shares) < 0.65 and 0.18 < np.min(shares) and np.max(shares) < 1.02
    assert np.ptp(corners) > 8


def test_colours_change_by_factors():
    """Of a grey image only the brightness changes."""
    image = np.full((SIZE, SIZE, 3), 0.4, np.float32)
    found = np.stack([jittered(jax.random.key(i), image, 0.5, 0.1) for i in range(40)])
    np.testing.assert_allclose(found, np.broadcast_to(found[:, :1, :1, :1], found.shape), atol=1e-5)
    values = found[:, 0, 0, 0] / 0.4
    assert 0.5 <= values.min() < 0.7 and 1.3 < values.max() <= 1.5


def test_a_full_turn_of_the_hue_changes_nothing():
    image = images(1)[0] / np.float32(255)
    np.testing.assert_allclose(turned_hue(image, 2 * np.pi), image, atol=1e-5)
    third = turned_hue(image, 2 * np.pi / 3)
    assert np.abs(third - image).max() > 0.1
    np.testing.assert_allclose(grey(third), grey(image), atol=1e-3)


def test_a_part_is_enlarged():
    """The whole stays; of an even half, every new pixel lies between two old ones."""
    image = images(1)[0].astype(np.float32)
    whole = cut(image, jnp.zeros(2), jnp.full(2, float(SIZE)))
    np.testing.assert_allclose(whole, image, atol=1e-3)
    ramp = np.broadcast_to(np.arange(SIZE, dtype=np.float32)[None, :, None], image.shape)
    half = cut(ramp, jnp.array([2.0, 3.0]), jnp.array([4.0, 4.0]))
    np.testing.assert_allclose(half[3, 1:-1, 0], 3 + (np.arange(SIZE) + 0.5)[1:-1] / 2 - 0.5)


def test_a_blur_keeps_flat_images():
    flat = np.full((224, 224, 3), 0.3, np.float32)
    np.testing.assert_allclose(blurred(KEY, flat), flat, atol=1e-5)
    point = np.zeros((224, 224, 3), np.float32)
    point[100, 100] = 1
    spread = blurred(KEY, point)
    np.testing.assert_allclose(spread.sum((0, 1)), 1, rtol=1e-4)


def test_a_blur_is_as_wide_as_the_image_is_large():
    """The peak of a Gaussian of .1 to 2 pixels for every 224 of the image's."""
    key, point = jax.random.key(0), np.zeros((448, 448, 3), np.float32)
    point[200, 200] = 1
    sigma = 2 * jax.random.uniform(key, (), minval=0.1, maxval=2.0)
    assert sigma > 1
    np.testing.assert_allclose(blurred(key, point).max(), 1 / (2 * np.pi * sigma**2), rtol=0.02)


def test_distorted_views_differ_from_each_other_and_stay_in_range():
    image = np.repeat(images(1), 200, 0)
    seen = augmented(image, np.arange(200), view=distorted)
    assert seen.shape == (200, 1, SIZE, SIZE, 3) and np.isfinite(seen).all()
    shown = seen * np.float32(OPTICS.std) + np.float32(OPTICS.mean)
    assert shown.min() > -1e-4 and shown.max() < 1 + 1e-4
    spread = np.ptp(shown, axis=-1).max((1, 2, 3))
    assert 0.1 < (spread < 1e-4).mean() < 0.3  # one in five is grey
    assert len(np.unique(shown[:, 0, 0, 0, 0])) > 150


@pytest.mark.parametrize("view", [repeated, exemplar, transformed])
def test_of_four_views_the_first_is_the_image_and_the_others_are_in_range(view):
    image = np.repeat(images(1), 40, 0)
    seen = augmented(image, np.arange(40), view=view)
    assert seen.shape == (40, 4, SIZE, SIZE, 3)
    assert len(np.unique(find(seen[:, 0], image, 0), axis=0)) > 10  # flips and crops of it
    shown = seen * np.float32(OPTICS.std) + np.float32(OPTICS.mean)
    assert shown.min() > -1e-4 and shown.max() < 1 + 1e-4
    assert (np.abs(seen[:, 1] - seen[:, 2]).max((1, 2, 3)) > 0.1).mean() > 0.9


def test_repeated_views_are_drawn_each_for_itself():
    image = images(20)
    seen = augmented(image, np.arange(20), view=repeated)
    draws = np.stack([find(seen[:, k], image, 0) for k in range(4)], 1)
    assert (draws[:, :1] != draws[:, 1:]).any(-1).mean() > 0.8


def test_an_image_is_transformed_in_one_of_four_ways():
    optics = OPTICS._replace(flip=False, pad=0)
    image = np.repeat(images(1), 200, 0)
    shown = augmented(image, np.arange(200), optics, transformed)[:, 1:].reshape(-1, SIZE, SIZE, 3)
    shown = shown * np.float32(OPTICS.std) + np.float32(OPTICS.mean)
    turned = [np.abs(shown - np.rot90(image[0], k) / 255).max((1, 2, 3)) < 1e-4 for k in (1, 2, 3)]
    is_grey = np.ptp(shown, axis=-1).max((1, 2)) < 1e-4
    assert all(0.04 < one.mean() < 0.13 for one in turned) and 0.15 < is_grey.mean() < 0.35


# How a batch looks at its images.


def test_keys_are_folded_positions():
    image = jnp.asarray(images(6))
    seen = jax.jit(lambda image: viewer(OPTICS, KEY, image)(rotated))(image)
    expected = augmented(image, np.arange(6)).reshape(24, SIZE, SIZE, 3)
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_every_look_draws_anew():
    image = jnp.asarray(images(40))

    @jax.jit
    def looks(image: jax.Array) -> list[jax.Array]:
        see = viewer(OPTICS, KEY, image)
        return [see(once) for _ in range(3)]

    for one, other in itertools.combinations(looks(image), 2):
        moved = np.abs(one - other).max((1, 2, 3)) > 0
        assert 25 < moved.sum() <= 40  # of 50 draws one is the same by chance


def test_other_images_are_drawn_by_their_own_places():
    image, stored = images(6), images(9, seed=1)

    @jax.jit
    def looks(image: jax.Array, stored: jax.Array) -> tuple[jax.Array, jax.Array]:
        see = viewer(OPTICS, KEY, image)
        return see(rotated, stored), see(once)

    seen, own = looks(image, stored)
    expected = augmented(stored, np.arange(9)).reshape(36, SIZE, SIZE, 3)
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    assert own.shape == (6, SIZE, SIZE, 3)


def test_shares_are_looked_at_by_their_places_in_the_whole():
    image = jnp.asarray(images(8))

    def program(own: jax.Array) -> jax.Array:
        see = viewer(OPTICS, KEY, own)
        return jnp.stack([see(once), see(once)])

    on_four = jax.jit(jax.vmap(program, axis_name=AXIS, out_axes=1))
    found = on_four(image.reshape(4, 2, SIZE, SIZE, 3)).reshape(2, 8, SIZE, SIZE, 3)
    np.testing.assert_allclose(found, jax.jit(program)(image), atol=1e-6)


@pytest.fixture
def additions(monkeypatch):
    """Colours, grey and blur as numbers that are added; parts are whole images."""

    def adding(amount: int):
        return lambda *given: next(one for one in given if np.ndim(one) == 3) + amount

    for name, amount in (("jittered", 1), ("grey", 2), ("blurred", 4)):
        monkeypatch.setattr(views, name, adding(amount))
    monkeypatch.setattr(views, "resized_crop", lambda key, image, least: image)


def added(view, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """(what was added, whether it is flipped), each [600, V], of an image that is bright left."""
    optics = Optics(flip, 0, (0.0,) * 3, (1.0,) * 3)
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:, 0] = 128
    random = jax.random.split(jax.random.key(0), 600)
    corner = np.asarray(jax.vmap(lambda key: view(optics, key, image))(random))[:, :, 0, 0, 0]
    whole = np.floor(corner)
    return whole.astype(int), corner - whole < 0.25


def test_how_often_a_view_is_distorted(additions):
    """In other colours with probability .8, in grey with .2, blurred and flipped with .5."""
    amount, flipped = added(distorted, flip=True)
    shares = [(amount & bit > 0).mean() for bit in (1, 2, 4)]
    np.testing.assert_allclose([*shares, flipped.mean()], [0.8, 0.2, 0.5, 0.5], atol=0.07)
    assert not added(distorted, flip=False)[1].any()


@pytest.mark.parametrize(
    ("view", "parts", "colours"),
    [
        (distorted, {0.2}, {(0.4, 0.1)}),
        (exemplar, {0.08}, {(0.4, 0.1)}),
        (transformed, {0.08}, {(0.4, 0.1)}),
        (partial(coloured, 0.3), set(), {(0.3, 0.0)}),
    ],
)
def test_how_strongly_a_view_is_changed(view, parts, colours, monkeypatch):
    """The smallest share of the image in a part, and how much brightness and the like and hue."""
    least, strengths = set(), set()

    def crop(key, image, share):
        least.add(share)
        return image

    def jitter(key, image, *given):
        strengths.add(given)
        return image

    monkeypatch.setattr(views, "resized_crop", crop)
    monkeypatch.setattr(views, "jittered", jitter)
    view(OPTICS, KEY, jnp.asarray(images(1)[0]))
    assert (least, strengths) == (parts, colours)


def test_exemplars_have_other_colours_and_half_of_them_are_flipped(additions):
    amount, flipped = added(exemplar, flip=True)
    assert (amount == [0, 1, 1, 1]).all()
    np.testing.assert_allclose(flipped.mean(0), 0.5, atol=0.07)
    assert not added(exemplar, flip=False)[1].any()


def test_the_strong_view_is_the_image_distorted():
    image = images(1)[0]
    plain = OPTICS._replace(flip=False, pad=0)
    expected = normalise(distort(jax.random.split(KEY)[1], image)[None], plain)
    np.testing.assert_array_equal(strong(plain, KEY, image), expected)
