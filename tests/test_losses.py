"""The shared equations against the reference's values and against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, assert_near

from sskd_jax.losses import (
    accuracy,
    attention,
    cross_entropy,
    map_pairs,
    normalized,
    pooled,
    same_size,
    same_widths,
    soft_divergence,
)
from sskd_jax.types import UserError


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return (2 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(np.float64(x) - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def divergences(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """T^2 KL(teacher || student) of every row."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * np.sum(p * np.log(p / q), -1)


STUDENT, TEACHER, LABELS = normal(6, 5), normal(6, 5, seed=1), np.array([0, 4, 2, 2, 1, 3])


def test_cross_entropy_is_the_mean_log_probability():
    expected = -np.log(softmax(STUDENT)[np.arange(6), LABELS]).mean()
    np.testing.assert_allclose(cross_entropy(STUDENT, LABELS), expected, rtol=1e-6)


def test_cross_entropy_pulls_towards_the_labels():
    expected = (softmax(STUDENT) - np.eye(5)[LABELS]) / 6
    assert_near(jax.grad(cross_entropy)(STUDENT, LABELS), expected, 1e-6)


def test_cross_entropy_of_huge_logits_is_finite():
    value, gradient = jax.value_and_grad(cross_entropy)(1e4 * STUDENT, LABELS)
    assert np.isfinite(value) and np.isfinite(gradient).all() and value > 1e3


def test_divergence_is_the_reference(shared):
    gold = Golden(shared / "golden").under("losses.npz", "kd_T4")
    value, gradient = jax.value_and_grad(soft_divergence)(
        gold["in/student"], gold["in/teacher"], temperature=4.0
    )
    np.testing.assert_allclose(value, gold["loss"], rtol=1e-5)
    assert_near(gradient, gold["grad/student"], 1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_divergence_is_the_mean_over_rows(temperature):
    expected = divergences(STUDENT, TEACHER, temperature).mean()
    np.testing.assert_allclose(
        soft_divergence(STUDENT, TEACHER, temperature=temperature), expected, rtol=1e-5
    )


@pytest.mark.parametrize("keep", [[1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1], [1] * 6])
def test_divergence_is_the_mean_over_the_kept_rows(keep):
    keep = np.array(keep, bool)
    expected = divergences(STUDENT, TEACHER, 4.0)[keep].mean()
    np.testing.assert_allclose(
        soft_divergence(STUDENT, TEACHER, temperature=4.0, keep=keep), expected, rtol=1e-5
    )


def test_rows_that_are_not_kept_get_no_gradient():
    keep = np.array([1, 0, 1, 0, 0, 1], bool)
    gradient = jax.grad(
        lambda student: soft_divergence(student, TEACHER, temperature=4.0, keep=keep)
    )(STUDENT)
    np.testing.assert_array_equal(np.abs(gradient).max(1) > 0, keep)


def test_nothing_kept_gives_zero_and_a_zero_gradient():
    keep = np.zeros(6, bool)
    value, gradient = jax.value_and_grad(
        lambda student: soft_divergence(student, TEACHER, temperature=4.0, keep=keep)
    )(STUDENT)
    assert value == 0 and (gradient == 0).all()


def test_divergence_from_itself_is_zero_and_from_others_positive():
    assert abs(soft_divergence(TEACHER, TEACHER, temperature=4.0)) < 1e-6
    assert soft_divergence(STUDENT, TEACHER, temperature=4.0) > 0.1


def test_divergence_is_not_symmetric():
    there, back = (
        soft_divergence(*pair, temperature=1.0) for pair in ((STUDENT, TEACHER), (TEACHER, STUDENT))
    )
    assert abs(there - back) > 1e-2


@pytest.mark.parametrize("shift", [-7.0, 30.0])
def test_constants_added_to_a_row_change_nothing(shift):
    rows = shift * np.arange(6, dtype=np.float32)[:, None]
    plain = soft_divergence(STUDENT, TEACHER, temperature=4.0)
    np.testing.assert_allclose(
        soft_divergence(STUDENT + rows, TEACHER, temperature=4.0), plain, rtol=1e-4
    )
    np.testing.assert_allclose(
        soft_divergence(STUDENT, TEACHER - rows, temperature=4.0), plain, rtol=1e-4
    )
    np.testing.assert_allclose(
        cross_entropy(STUDENT + rows, LABELS), cross_entropy(STUDENT, LABELS), rtol=1e-4
    )


def test_the_gradient_keeps_its_size_at_high_temperatures():
    sizes = [
        np.abs(jax.grad(soft_divergence)(STUDENT, TEACHER, temperature=t)).max()
        for t in (50.0, 500.0)
    ]
    np.testing.assert_allclose(sizes[1], sizes[0], rtol=0.1)


def test_accuracy_is_the_share_of_largest_logits():
    assert accuracy(jnp.eye(5)[LABELS], LABELS) == 1
    assert accuracy(jnp.eye(5)[LABELS], np.array([0, 4, 2, 0, 0, 0])) == 0.5
    assert accuracy(-jnp.eye(5)[LABELS], LABELS) == 0


# Maps.


@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 3), (1, 1), (6, 5)])
def test_pooling_averages_over_parts_that_may_overlap(height, width):
    """As PyTorch's adaptive average pooling does, of 6x5 here."""
    maps = normal(2, 6, 5, 3)
    expected = np.zeros((2, height, width, 3))
    for i, j in np.ndindex(height, width):
        rows = slice(i * 6 // height, -(-(i + 1) * 6 // height))
        columns = slice(j * 5 // width, -(-(j + 1) * 5 // width))
        expected[:, i, j] = maps[:, rows, columns].mean((1, 2))
    assert_near(pooled(maps, height, width), expected, 1e-6)


def test_the_larger_of_two_maps_is_pooled():
    small, large = normal(2, 2, 2, 3), normal(2, 4, 4, 5, seed=1)
    means = large.reshape(2, 2, 2, 2, 2, 5).mean((2, 4))
    for pair in (same_size(small, large), same_size(large, small)[::-1]):
        np.testing.assert_array_equal(pair[0], small)
        assert_near(pair[1], means, 1e-6)
    for one, other in zip(same_size(small, small + 1), (small, small + 1), strict=True):
        np.testing.assert_array_equal(one, other)


def test_unit_vectors():
    rows = normal(4, 7)
    assert_near(normalized(rows), rows / np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    zeros = np.zeros_like(rows)
    np.testing.assert_array_equal(normalized(zeros), zeros)
    gradient = jax.grad(lambda rows: normalized(rows).sum())(zeros)
    np.testing.assert_array_equal(gradient, np.ones_like(rows))


def test_attention_is_the_mean_square_of_the_channels():
    maps = normal(3, 2, 4, 5)
    expected = (maps**2).mean(-1).reshape(3, 8)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert_near(attention(maps), expected, 1e-6)


def test_maps_are_paired_by_depth_behind_the_stem():
    assert map_pairs("abc", "xyz") == [("b", "y"), ("c", "z")]
    assert map_pairs("abc", "xyz", start=0) == [("a", "x"), ("b", "y"), ("c", "z")]
    with pytest.raises(UserError, match="the student has 3 and the teacher 2: choose networks of"):
        map_pairs("abc", "xy")


def test_maps_of_other_widths_are_refused():
    maps = [normal(1, 2, 2, width) for width in (3, 4)]
    same_widths("fsp", maps, maps)
    told = r"fsp compares maps of one width, but the student's have \[3, 4\] .* teacher's \[4, 3\]"
    with pytest.raises(UserError, match=told):
        same_widths("fsp", maps, maps[::-1])
