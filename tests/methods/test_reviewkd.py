import jax
import numpy as np
import pytest
from pairs import arrays, check_at_ties, check_blind

from sskd_jax.methods.reviewkd import Fusion, context_loss, reviewkd
from sskd_jax.types import Outputs

STUDENT, TEACHER = arrays(3, 8, 8, 5), arrays(3, 8, 8, 5, seed=1)


def test_the_context_loss_in_numpy():
    def error(size: int) -> float:
        means = [
            x.reshape(3, size, 8 // size, size, 8 // size, 5).mean((2, 4))
            for x in (STUDENT, TEACHER)
        ]
        return np.mean((means[0] - means[1]) ** 2)

    expected = (error(8) + error(4) / 2 + error(2) / 4 + error(1) / 8) / (1 + 1 / 2 + 1 / 4 + 1 / 8)
    np.testing.assert_allclose(context_loss(STUDENT, TEACHER), expected, rtol=1e-5)


def test_a_small_map_has_fewer_levels():
    a, b = STUDENT[:, :2, :2], TEACHER[:, :2, :2]
    expected = (np.mean((a - b) ** 2) + np.mean((a.mean((1, 2)) - b.mean((1, 2))) ** 2) / 2) / 1.5
    np.testing.assert_allclose(context_loss(a, b), expected, rtol=1e-5)
    np.testing.assert_allclose(
        context_loss(a[:, :1, :1], b[:, :1, :1]), np.mean((a - b)[:, :1, :1] ** 2), rtol=1e-5
    )


def test_what_it_is_blind_to():
    order = np.random.default_rng(0).permutation(5)
    check_blind(
        context_loss,
        STUDENT,
        TEACHER,
        (STUDENT[..., order], TEACHER[..., order]),
        (TEACHER, STUDENT),
        (STUDENT[::-1], TEACHER[::-1]),
        (STUDENT + 1, TEACHER + 1),
        (STUDENT[:, ::-1], TEACHER[:, ::-1]),
    )


def test_ties_and_zeros():
    check_at_ties(context_loss, STUDENT, TEACHER)


def batch_norm(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(-1, x.shape[-1])
    return (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    pad, size = kernel.shape[0] // 2, x.shape[1]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return sum(
        x[:, i : i + size, j : j + size] @ kernel[i, j] for i, j in np.ndindex(*kernel.shape[:2])
    )


def test_the_fusion_in_numpy():
    """A map of 4x4 with what 2x2 passed on, for a teacher's map of 8x8."""
    features, deeper, module = arrays(3, 4, 4, 5), arrays(3, 2, 2, 6, seed=1), Fusion(6, 7, 8)
    variables = module.init(jax.random.key(0), features, deeper)
    params = jax.tree.map(np.asarray, variables["params"])
    x = batch_norm(features @ params["conv1"]["kernel"][0, 0])
    y = deeper.repeat(2, 1).repeat(2, 2)
    attention = params["attention"]["conv"]
    share = 1 / (
        1 + np.exp(-(np.concatenate([x, y], -1) @ attention["kernel"][0, 0] + attention["bias"]))
    )
    x = (x * share[..., :1] + y * share[..., 1:]).repeat(2, 1).repeat(2, 2)
    fused, passed = module.apply(variables, features, deeper)
    np.testing.assert_allclose(passed, x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        fused, batch_norm(convolved(x, params["conv2"]["kernel"])), rtol=1e-3, atol=1e-4
    )


def test_the_deepest_is_the_embedding_alone():
    variables = Fusion(6, 7, 1).init(jax.random.key(0), arrays(3, 1, 1, 5), None)
    assert set(variables["params"]) == {"conv1", "norm1", "conv2", "norm2"}


def outputs(sizes: tuple[int, ...], width: int) -> Outputs:
    maps = tuple(arrays(4, size, size, width + i, seed=i) for i, size in enumerate(sizes))
    return Outputs(arrays(4, 3), arrays(4, width), maps, maps)


@pytest.mark.parametrize("sizes", [(8, 8, 4), (8, 4, 2), (16, 16, 4)])
def test_the_term_rises_with_the_epochs_and_maps_may_differ_in_size(sizes):
    method, student, teacher = (
        reviewkd(warmup_epochs=20, kd_temperature=4.0),
        outputs(sizes, 5),
        outputs((8, 8, 4), 9),
    )
    params = method.init(jax.random.key(0), student, teacher)

    def term(epoch: int) -> float:
        batch = {"label": np.zeros(4, int), "epoch": np.int32(epoch)}
        return float(method.loss(params, {}, student, teacher, batch)[0]["review"])

    assert term(0) == 0 and term(20) == term(100) > 0
    np.testing.assert_allclose(term(5), term(20) / 4, rtol=1e-5)
