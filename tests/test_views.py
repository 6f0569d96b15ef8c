"""Views against plain numpy: each is looked for among all flips and crops of the image."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sskd_jax import views

PAD, SIZE = 2, 8
COLOUR = dict(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def reference(image: np.ndarray, k: int, flip: bool, top: int, left: int) -> np.ndarray:
    """Flip, rotate, pad, crop, normalise images [N, H, W, 3], in this order, in float64."""
    turned = np.rot90(image[:, :, ::-1] if flip else image, k, axes=(1, 2))
    padded = np.pad(turned, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    return (padded[:, top : top + SIZE, left : left + SIZE] / 255.0 - COLOUR["mean"]) / COLOUR[
        "std"
    ]


def find(view: np.ndarray, image: np.ndarray, k: int) -> np.ndarray:
    """int[N, 3]: the only (flip, top, left) that gives view k of every image."""
    draws = np.array(list(itertools.product((0, 1), range(2 * PAD + 1), range(2 * PAD + 1))))
    distance = np.stack(
        [np.abs(view - reference(image, k, *draw)).max((1, 2, 3)) for draw in draws]
    )
    assert ((distance < 1e-5).sum(0) == 1).all()
    return draws[distance.argmin(0)]


@functools.cache
def step(**knobs):
    """A compiled step of training, as far as its views."""
    return jax.jit(jax.vmap(functools.partial(views.augment, **COLOUR, **knobs)))


def augmented(
    image: np.ndarray, position: np.ndarray, flip: bool = True, pad: int = PAD
) -> np.ndarray:
    """What one step of training makes of images at these positions of the global batch."""
    keys = views.keys(jax.random.key(3), jnp.asarray(position))
    return np.asarray(step(views=4, flip=flip, pad=pad)(keys, jnp.asarray(image)))


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
    """Of the views, of the two directions and of the flip: no correlation beyond chance (four standard deviations)."""
    columns = np.concatenate([draws[:, 0, :1], draws[:, :, 1:].reshape(300, 8)], axis=1)
    correlation = np.corrcoef(columns.T) - np.eye(9)
    assert np.abs(correlation).max() < 4 / 300**0.5


def test_a_view_depends_on_the_position_alone():
    image = images(8)
    whole = augmented(image, np.arange(8))
    np.testing.assert_array_equal(augmented(image[5:], np.arange(5, 8)), whole[5:])
    np.testing.assert_array_equal(augmented(image[::-1], np.arange(8)[::-1])[::-1], whole)
    assert not np.array_equal(augmented(image, np.arange(8) + 8), whole)


def test_keys_are_folded_positions():
    key = jax.random.key(7)
    got = views.keys(key, jnp.array([5, 0, 300]))
    want = [jax.random.key_data(jax.random.fold_in(key, i)) for i in (5, 0, 300)]
    np.testing.assert_array_equal(jax.random.key_data(got), np.stack(want))


def test_without_flip_and_crop_only_the_rotations_are_left():
    image = images(20)
    evaluate = jax.vmap(lambda x: views.evaluate_views(x, views=4, **COLOUR))
    np.testing.assert_allclose(
        augmented(image, np.arange(20), flip=False, pad=0), evaluate(image), atol=1e-6
    )
    view = augmented(image, np.arange(20), flip=False)
    assert not find(view[:, 0], image, 0)[:, 0].any()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_view_zero_is_upright_and_the_others_turn_counter_clockwise(count):
    image = np.repeat(np.uint8([[[10], [20]], [[30], [40]]]), 3, axis=2)
    view = np.asarray(
        views.evaluate_views(
            jnp.asarray(image), views=count, mean=(0.0, 0.5, 0.0), std=(1.0, 1.0, 0.5)
        )
    )
    turns = [[[10, 20], [30, 40]], [[20, 40], [10, 30]], [[40, 30], [20, 10]], [[30, 10], [40, 20]]]
    want = np.array(turns[:count]) / 255
    np.testing.assert_allclose(view, np.stack([want, want - 0.5, want * 2], axis=-1), atol=1e-6)
    assert view.dtype == np.float32
