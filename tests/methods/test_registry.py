"""What every registered method promises, on random outputs of two networks with embeddings of different widths."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import common
from sskd_jax.methods import METHODS
from sskd_jax.types import Method, Outputs

N, K = 5, 4  # images, classes
LABELS = np.array([0, 3, 2, 1, 1])
compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
BATCH = {
    "label": LABELS,
    "index": np.arange(N),
    "mask": np.ones(N, bool),
    "epoch": np.int32(3),
    "key": np.array([0, 7], np.uint32),
}


def outputs(rows: int, width: int) -> Outputs:
    rng = np.random.default_rng(width)
    maps = tuple(
        rng.standard_normal((rows, size, size, 6)).astype(np.float32) for size in (8, 4, 2)
    )
    return Outputs(
        rng.standard_normal((rows, K)).astype(np.float32),
        rng.standard_normal((rows, width)).astype(np.float32),
        maps,
        maps,
    )


@pytest.fixture(params=METHODS)
def method(request) -> Method:
    return METHODS[request.param](**common.METHOD_NUMBERS[request.param])


def networks(method: Method) -> tuple[Outputs, Outputs | None]:
    rows = N * method.views
    return outputs(rows, 6), outputs(rows, 9) if method.teacher else None


def pretrained(method: Method) -> dict:
    """Parameters of its first stages."""
    student, teacher = networks(method)
    return {
        name: stage.init(jax.random.key(1), student if stage.student else None, teacher)
        for name, stage in method.pretrain.items()
    }


def batch(method: Method) -> dict:
    student, teacher = networks(method)
    return BATCH | {"memory": method.memory(jax.random.key(2), student, teacher, LABELS)}


def losses(method: Method, params: dict, student: Outputs | None) -> tuple[dict, dict]:
    """(terms, figures)."""
    return method.loss(params, pretrained(method), student, networks(method)[1], batch(method))


def check(method: Method, terms: dict, figures: dict) -> None:
    assert set(terms) == set(method.terms) and len(set(method.terms)) == len(method.terms)
    assert all(
        value.shape == () and np.isfinite(value) for value in (*terms.values(), *figures.values())
    )
    assert not set(terms) & set(figures)


def test_terms_are_those_it_names_and_finite(method):
    student, teacher = networks(method)
    params = method.init(jax.random.key(0), student, teacher)
    check(method, *compiled(partial(losses, method))(params, student))


def test_its_first_stages_keep_the_same_promises(method):
    for name, stage in method.pretrain.items():
        assert stage.views == method.views and stage.teacher and not stage.pretrain
        student = networks(method)[0] if stage.student else None
        check(stage, *compiled(partial(losses, stage))(pretrained(method)[name], student))


def test_parameters_are_made_from_shapes_alone(method):
    shapes = jax.eval_shape(lambda: networks(method))
    made = method.init(jax.random.key(0), *shapes)
    expected = method.init(jax.random.key(0), *networks(method))
    jax.tree.map(np.testing.assert_array_equal, made, expected)


def test_every_term_moves_the_student_or_its_parameters(method):
    student, teacher = networks(method)
    params = method.init(jax.random.key(0), student, teacher)
    gradients = compiled(jax.jacrev(lambda trained: losses(method, *trained)[0]))((params, student))
    for name in method.terms:
        leaves = jax.tree.leaves(gradients[name])
        assert all(np.isfinite(leaf).all() for leaf in leaves) and any(
            leaf.any() for leaf in leaves
        ), name


def test_what_is_remembered_keeps_its_shape(method):
    student, teacher = networks(method)
    params, before = method.init(jax.random.key(0), student, teacher), batch(method)
    after = method.remember(params, student, teacher, before)
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, before["memory"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def test_scores_come_by_row(method):
    student, teacher = networks(method)
    stages = [(method, method.init(jax.random.key(0), student, teacher), student)]
    stages += [(stage, pretrained(method)[name], None) for name, stage in method.pretrain.items()]
    for stage, params, network in stages:
        scores = stage.evaluate(params, network, teacher, BATCH) if stage.evaluate else {}
        assert all(
            score.ndim == 1 and score.size % N == 0 and np.isfinite(score).all()
            for score in scores.values()
        )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_numbers_weights_and_tests(name):
    method = METHODS[name](**common.METHOD_NUMBERS[name])
    assert all(set(weights) == set(method.terms) for weights in common.WEIGHTS[name].values())
    assert (Path(__file__).parent / f"test_{name}.py").is_file()
