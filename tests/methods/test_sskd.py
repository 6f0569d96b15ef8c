"""SSKD against numpy, and what its equations leave unchanged."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_near
from pairs import arrays, given_batch, given_losses, given_nets

from sskd_jax.methods import sskd
from sskd_jax.methods.common import TEACHER as TEACHER_STAGE
from sskd_jax.methods.common import classification_scores
from sskd_jax.types import Losses, Outputs, Params, frozen, learns
from sskd_jax.views import rotated, transformed

WEIGHTS = {"ce": 0.1, "kd": 0.9, "tf": 2.7, "ss": 10.0}
KNOBS = {
    "kd_temperature": 4.0,
    "tf_temperature": 4.0,
    "ss_temperature": 0.5,
    "tf_ratio": 1.0,
    "ss_ratio": 0.75,
}
N, K, D = 6, 5, 7  # images, classes, width


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


STUDENT = normal(4 * N, K, seed=1), normal(4 * N, D, seed=2)
TEACHER = 3 * normal(4 * N, K, seed=3), normal(4 * N, D + 2, seed=4)
LABELS = np.array([0, 4, 2, 2, 1, 3])
METHOD = sskd.sskd(transformation="rotation", head_temperature=0.2, **KNOBS)
HEAD = sskd.ProjectionHead()


def head_of(embed: np.ndarray, seed: int = 0) -> Params:
    """The first weights of a head for such embeddings."""
    return HEAD.init(jax.random.key(seed), embed)


def terms(
    student: Any = STUDENT, teacher: Any = TEACHER, labels: Any = LABELS, **knobs: float
) -> dict[str, jax.Array]:
    return sskd.distillation_terms(student, teacher, labels, **KNOBS | knobs)


# The pieces, in numpy.


def cosines(rows: np.ndarray) -> np.ndarray:
    """[3N, N], with loops."""
    images = np.float64(rows).reshape(-1, 4, rows.shape[-1])
    images /= np.linalg.norm(images, axis=-1, keepdims=True)
    return np.array(
        [
            [images[i, view] @ images[j, 0] for j in range(len(images))]
            for i in range(len(images))
            for view in (1, 2, 3)
        ]
    )


def test_views_are_split_image_by_image():
    rows = np.arange(8)[:, None] * np.ones((1, 2))
    first, others = sskd.split_views(jnp.asarray(rows))
    np.testing.assert_array_equal(first[:, 0], [0, 4])
    np.testing.assert_array_equal(others[:, 0], [1, 2, 3, 5, 6, 7])


def test_similarities_are_cosines_of_transformed_with_normal_views():
    assert_near(sskd.similarity_matrix(STUDENT[1]), cosines(STUDENT[1]), 1e-6)


def test_the_positive_of_a_row_is_its_own_image():
    np.testing.assert_array_equal(sskd.positives(jnp.zeros((9, 3))), [0, 0, 0, 1, 1, 1, 2, 2, 2])


def test_a_zero_row_is_similar_to_nothing():
    rows = np.concatenate([np.zeros((4, D), np.float32), STUDENT[1]])
    similarity = sskd.similarity_matrix(rows)
    assert not similarity[:3].any() and not similarity[:, 0].any()
    assert_near(similarity[3:, 1:], cosines(STUDENT[1]), 1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_error_level_is_the_place_in_a_stable_descending_sort(seed):
    rng = np.random.default_rng(seed)
    scores, target = (
        rng.integers(0, 4, (40, 7)).astype(np.float32),
        rng.integers(0, 7, 40),
    )  # ties in every row
    order = np.argsort(-scores, axis=1, kind="stable")
    expected = np.argmax(order == target[:, None], 1)
    np.testing.assert_array_equal(sskd.error_level(scores, target), expected)


def test_level_zero_is_what_argmax_calls_correct():
    scores, target = np.float32([[1, 1, 0], [1, 1, 0], [0, 2, 2]]), np.array([0, 1, 1])
    np.testing.assert_array_equal(sskd.error_level(scores, target) == 0, scores.argmax(1) == target)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75, 1.0])
def test_all_correct_rows_and_a_share_of_the_least_wrong_are_transferred(ratio):
    rng, rows = np.random.default_rng(0), 48
    transferred = jax.jit(partial(sskd.transferred, ratio=ratio))
    for wrong in range(
        rows + 1
    ):  # int() cuts off, and of .3 * 10, which is a little less than 3, too
        level = rng.permutation(
            np.concatenate([np.zeros(rows - wrong, int), rng.integers(1, 5, wrong)])
        )
        expected = np.zeros(rows, bool)
        expected[np.argsort(level, kind="stable")[: rows - wrong + int(ratio * wrong)]] = True
        np.testing.assert_array_equal(transferred(level), expected)


def test_of_equally_wrong_rows_the_earlier_are_transferred():
    np.testing.assert_array_equal(
        sskd.transferred(jnp.array([2, 0, 2, 1, 2]), 0.75), [True, True, True, True, False]
    )


def test_the_temperature_of_the_head_divides_the_similarities():
    head = partial(HEAD.apply, head_of(TEACHER[1]))
    nets = {"teacher": Outputs(*TEACHER), "head": head}
    terms, figures, _ = given_losses(METHOD["head"], LABELS, **nets)
    similarity, rows = cosines(np.asarray(head(TEACHER[1]))), np.arange(3 * N)
    scores = similarity / 0.2
    expected = np.mean(np.log(np.exp(scores).sum(1)) - scores[rows, rows // 3])
    np.testing.assert_allclose(terms["ss"], expected, rtol=1e-5)
    right = similarity.argmax(1) == rows // 3
    np.testing.assert_allclose(figures["contrastive"], right.mean(), rtol=1e-6)


def test_the_head_is_two_layers_with_a_relu_between():
    variables = head_of(STUDENT[1])
    (w0, b0), (w2, b2) = (
        (np.asarray(layer["kernel"]), np.asarray(layer["bias"]))
        for layer in (variables["params"][name] for name in ("0", "2"))
    )
    expected = np.maximum(STUDENT[1] @ w0 + b0, 0) @ w2 + b2
    assert_near(HEAD.apply(variables, STUDENT[1]), expected, 1e-6)


def test_the_head_starts_uniformly_within_the_root_of_its_width():
    for leaf in jax.tree.leaves(head_of(normal(1, 64))):
        assert 0.9 / 8 < np.abs(leaf).max() <= 1 / 8
        assert abs(leaf.mean()) < 6 / 8 / np.sqrt(3 * leaf.size)


def test_the_stages_hand_the_teacher_and_its_head_on():
    assert list(METHOD) == ["teacher", "head", "student"]
    assert METHOD["teacher"] is TEACHER_STAGE
    assert METHOD["head"].nets == {"teacher": frozen("teacher"), "head": learns(HEAD)}
    assert METHOD["student"].nets == {
        "student": learns("student"),
        "head": learns(HEAD),
        "teacher": frozen("teacher"),
        "teacher_head": frozen(HEAD, "head/head"),
    }


@pytest.mark.parametrize(("transformation", "view"), [("rotation", rotated), ("four", transformed)])
@pytest.mark.parametrize("stage", ["head", "student"])
def test_every_network_sees_the_same_four_views(stage, transformation, view):
    """In training; in evaluation they are rotations, and not drawn twice."""
    method = sskd.sskd(transformation=transformation, head_temperature=0.2, **KNOBS)
    seen = []

    def net(outputs, pixels):
        seen.append(pixels)
        return outputs

    nets = {
        "student": partial(net, Outputs(*STUDENT)),
        "teacher": partial(net, Outputs(*TEACHER)),
        "head": lambda embed: embed,
        "teacher_head": lambda embed: embed,
    }
    nets = {name: nets[name] for name in method[stage].nets}
    jax.eval_shape(lambda: given_losses(method[stage], LABELS, **nets))
    assert seen == [view] * (2 if stage == "student" else 1)
    seen.clear()
    batch = given_batch(LABELS, mask=np.ones(N, bool))
    jax.eval_shape(lambda: method[stage].scores(nets, batch))
    assert seen == [rotated]


# What changes nothing.


def permuted(rows: np.ndarray, order: np.ndarray) -> np.ndarray:
    return rows.reshape(N, 4, -1)[order].reshape(rows.shape)


@pytest.mark.parametrize(
    "ratio", [0.0, 1.0]
)  # in between, the order decides which of equally wrong rows are kept
def test_the_order_of_the_images_does_not_matter(ratio):
    order = np.array([3, 0, 5, 1, 4, 2])
    values = jax.jit(partial(terms, tf_ratio=ratio, ss_ratio=ratio))
    moved = (tuple(permuted(rows, order) for rows in pair) for pair in (STUDENT, TEACHER))
    there, back = values(STUDENT, TEACHER, LABELS), values(*moved, LABELS[order])
    for name in WEIGHTS:
        np.testing.assert_allclose(back[name], there[name], rtol=1e-5)


def test_the_length_of_projections_does_not_matter():
    lengths = np.float32(np.random.default_rng(0).uniform(0.01, 100, (4 * N, 1)))
    values = jax.jit(terms)
    scaled = values((STUDENT[0], lengths * STUDENT[1]), (TEACHER[0], lengths[::-1] * TEACHER[1]))
    for name, value in values(STUDENT, TEACHER).items():
        np.testing.assert_allclose(scaled[name], value, rtol=1e-4)


def test_a_student_like_its_teacher_has_nothing_to_learn_from_it():
    values = jax.jit(terms)(TEACHER, TEACHER)
    assert all(abs(values[name]) < 1e-5 for name in ("kd", "tf", "ss")) and values["ce"] > 0.1


def test_each_term_sees_its_own_part_of_the_student():
    gradients = jax.jit(jax.jacrev(lambda student: terms(student)))(STUDENT)
    views = {
        name: np.abs(logits).reshape(N, 4, K).max((0, 2)) > 0
        for name, (logits, _) in gradients.items()
    }
    assert {name: list(seen) for name, seen in views.items()} == {
        "ce": [True, False, False, False],
        "kd": [True, False, False, False],
        "tf": [False, True, True, True],
        "ss": [False] * 4,
    }
    assert [bool(gradients[name][1].any()) for name in ("ce", "kd", "tf", "ss")] == [
        False,
        False,
        False,
        True,
    ]


@jax.jit
def loss_and_gradients(student: tuple, teacher: tuple) -> tuple:
    def total(student: tuple) -> jax.Array:
        return sum(WEIGHTS[name] * value for name, value in terms(student, teacher).items())

    return jax.value_and_grad(total)(student)


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((4 * N, D), np.float32),
        np.ones((4 * N, D), np.float32),
        np.repeat(normal(N, D), 4, 0),
        1e-20 * normal(4 * N, D),
        1e15 * normal(4 * N, D),
    ],
    ids=["zero", "all alike", "views alike", "tiny", "huge"],
)
def test_gradients_stay_finite(rows):
    tied = np.zeros((4 * N, K), np.float32)
    value, gradients = loss_and_gradients((STUDENT[0], rows), (tied, rows))
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in gradients)


# Which rows are transferred, and from whom gradients are kept.


def rows_of(gradient: np.ndarray) -> np.ndarray:
    """Which transformed views [3N] it moves."""
    return np.abs(np.asarray(gradient).reshape(N, 4, -1)[:, 1:]).reshape(3 * N, -1).max(1) > 0


@jax.jit
def gradients_of_selected(student: tuple) -> tuple:
    def of(name: str) -> tuple:
        return jax.grad(lambda student: terms(student, tf_ratio=0.5, ss_ratio=0.5)[name])(student)

    return of("tf")[0], of("ss")[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_teacher_alone_selects_the_rows(seed):
    of_logits, of_projections = gradients_of_selected(
        (normal(4 * N, K, seed=seed), normal(4 * N, D, seed=seed))
    )
    similarity = cosines(TEACHER[1]).astype(np.float32)
    levels = (
        sskd.error_level(sskd.split_views(TEACHER[0])[1], np.repeat(LABELS, 3)),
        sskd.error_level(similarity, np.arange(3 * N) // 3),
    )
    for gradient, level in zip((of_logits, of_projections), levels, strict=True):
        expected = sskd.transferred(level, 0.5)
        np.testing.assert_array_equal(rows_of(gradient), expected)
        assert 0 < expected.sum() < 3 * N


def both_heads() -> tuple[Params, Params]:
    """The first weights of the student's and of the teacher's head."""
    return head_of(STUDENT[1]), head_of(TEACHER[1], seed=1)


def losses(own: Params, others: Params, embed: Any) -> Losses:
    """Of the student's stage, with these weights of both heads and the teacher's embedding."""
    return given_losses(
        METHOD["student"],
        LABELS,
        student=Outputs(*STUDENT),
        teacher=Outputs(TEACHER[0], embed),
        head=partial(HEAD.apply, own),
        teacher_head=partial(HEAD.apply, others),
    )


def test_the_losses_are_those_of_the_projections():
    own, others = both_heads()
    projected = HEAD.apply(own, STUDENT[1]), HEAD.apply(others, TEACHER[1])
    expected = jax.jit(terms)((STUDENT[0], projected[0]), (TEACHER[0], projected[1]))
    found, figures, _ = jax.jit(losses)(own, others, TEACHER[1])
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)
    similarity = cosines(np.asarray(projected[0]))
    named = STUDENT[0][::4].argmax(1) == LABELS
    np.testing.assert_allclose(figures["accuracy"], named.mean(), rtol=1e-6)
    own_image = similarity.argmax(1) == np.arange(3 * N) // 3
    np.testing.assert_allclose(figures["contrastive"], own_image.mean(), rtol=1e-6)


def test_the_students_own_head_learns_from_the_similarities():
    gradient = jax.jit(jax.grad(lambda own, *more: losses(own, *more).terms["ss"]))(
        *both_heads(), TEACHER[1]
    )
    assert all(gradient["params"][name]["kernel"].any() for name in ("0", "2"))


# Evaluation.


def test_contrastive_scores_ask_for_the_most_similar_image():
    scores = sskd.contrastive_scores(STUDENT[1], np.ones(N, bool))["contrastive"]
    np.testing.assert_array_equal(scores, cosines(STUDENT[1]).argmax(1) == np.arange(3 * N) // 3)
    assert 0 < scores.sum() < 3 * N


def test_masked_images_are_no_candidates():
    rows = np.repeat(np.eye(3, D, dtype=np.float32), 4, 0)
    rows[4, 2], rows[8, 1] = 1, 10  # image 2 looks more like the views of image 1 than that itself
    masked, whole = (
        sskd.contrastive_scores(rows, np.array([True, True, admitted]))["contrastive"]
        for admitted in (False, True)
    )
    np.testing.assert_array_equal(masked[:6], [1] * 6)
    np.testing.assert_array_equal(whole[:6], [1] * 3 + [0] * 3)


def test_repeated_images_behind_the_last_change_no_score():
    rows, mask = (
        np.concatenate([STUDENT[1], STUDENT[1][-4:], STUDENT[1][-4:]]),
        np.arange(N + 2) < N,
    )
    padded = sskd.contrastive_scores(rows, mask)["contrastive"]
    plain = sskd.contrastive_scores(STUDENT[1], np.ones(N, bool))["contrastive"]
    np.testing.assert_array_equal(padded[: 3 * N], plain)


@pytest.mark.parametrize(("stage", "embed"), [("head", TEACHER[1]), ("student", STUDENT[1])])
def test_the_stages_score_the_head_that_learns(stage, embed):
    """With some images masked; the student's stage also scores its predictions."""
    mask, variables = np.arange(N) < N - 2, head_of(embed)
    nets = {"student": Outputs(*STUDENT), "teacher": Outputs(*TEACHER)}
    nets = given_nets(**nets, head=partial(HEAD.apply, variables))
    scores = METHOD[stage].scores(nets, given_batch(LABELS, mask=mask))
    expected = sskd.contrastive_scores(HEAD.apply(variables, embed), mask)
    if stage == "student":
        expected = classification_scores(STUDENT[0][::4], LABELS) | expected
    assert list(scores) == list(expected)
    for name, score in expected.items():
        np.testing.assert_array_equal(scores[name], score)


def test_each_term_has_its_own_temperature():
    logits = arrays(8, 5), arrays(8, 5, seed=1)
    found = {
        temperatures: sskd.prediction_terms(
            *logits,
            np.array([0, 1]),
            **dict(zip(("kd_temperature", "tf_temperature"), temperatures, strict=True)),
        )
        for temperatures in ((4.0, 2.0), (4.0, 3.0), (3.0, 2.0))
    }
    usual, other_tf, other_kd = found.values()
    assert usual["kd"] == other_tf["kd"] and usual["tf"] != other_tf["tf"]
    assert usual["kd"] != other_kd["kd"] and usual["tf"] == other_kd["tf"]
