"""What every stage of every registered method promises, on tiny networks of different widths."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import serialization
from pairs import STAGES, Beginning, begin, beginning, configured, network

from configs.methods import METHODS as ENTRIES
from sskd_jax.engine.begin import sketch
from sskd_jax.engine.step import make_batch
from sskd_jax.engine.task import TrainState, net_functions
from sskd_jax.methods import METHODS
from sskd_jax.methods.common import TEACHER
from sskd_jax.types import Binned, Losses, Params, Stage, Terms

INDEX = np.array([7, 0, 30, 19, 2], np.int32)  # five images
EPOCH = 3  # in which no term that rises with the epochs is 0 any more


class Found(NamedTuple):
    """What one stage computes of five images.

    Attributes:
      losses: as its loss returns them.
      gradients: of every term, by the parameters of the nets that learn.
      scores: of every row, and of which rows that is.
    """

    start: Beginning
    losses: Losses
    gradients: dict[str, Params]
    scores: Terms


def compute(start: Beginning) -> Found:
    """One compiled program computes all, with the gradient of one term at a time."""
    task, frozen, state = start
    state = state._replace(step=np.int32(EPOCH * task.steps_per_epoch))

    @jax.jit
    def program(state: TrainState, weights: Terms) -> tuple[Params, Losses, Terms]:
        batch = make_batch(task, state, frozen, INDEX)

        def objective(params: Params) -> tuple[jax.Array, Any]:
            own = state._replace(params=params).variables
            nets, _ = net_functions(task, {**frozen.nets, **own}, batch.key)
            losses = task.stage.loss(nets, batch)
            scores = task.stage.scores(nets, batch._replace(mask=np.ones(INDEX.size, bool)))
            total = sum(weights[name] * term for name, term in losses.terms.items())
            return total, (losses, scores)

        gradients, (losses, scores) = jax.grad(objective, has_aux=True)(state.params)
        return gradients, losses, scores

    terms = task.stage.terms
    zeros = dict.fromkeys(terms, np.float32(0))
    compiled = program.lower(state, zeros).compile()
    _, losses, _ = compiled(state, zeros)
    state = state._replace(memory=losses.memory)  # so that the loss finds something there
    found = {name: compiled(state, zeros | {name: np.float32(1)}) for name in terms}
    _, losses, scores = next(iter(found.values()))
    return Found(start, losses, {name: found[name][0] for name in terms}, scores)


@pytest.fixture(scope="module", params=STAGES, ids="-".join)
def found(request) -> Iterator[Found]:
    return compute(beginning(*request.param))


def is_finite(tree: Any) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def test_terms_are_those_it_names_and_finite(found):
    terms, figures, _ = found.losses
    names = found.start.task.stage.terms
    assert set(terms) == set(names) and len(set(names)) == len(names)
    assert not set(terms) & set(figures) and "loss" not in (*terms, *figures)
    assert all(value.shape == () for value in (*terms.values(), *figures.values()))
    assert is_finite((terms, figures))


def test_every_term_moves_what_learns(found):
    for name, gradients in found.gradients.items():
        leaves = jax.tree.leaves(gradients)
        assert is_finite(leaves) and any(leaf.any() for leaf in leaves), name


def test_every_net_that_learns_is_moved(found):
    for name, net in found.start.task.stage.nets.items():
        own = jax.tree.leaves([gradients.get(name) for gradients in found.gradients.values()])
        assert any(leaf.any() for leaf in own) == net.learns, name


def test_what_is_remembered_keeps_its_shape(found):
    before, after = found.start.state.memory, found.losses.memory
    assert jax.tree.map(describe, after) == jax.tree.map(describe, before)
    assert is_finite(after)


def describe(leaf: Any) -> tuple[tuple[int, ...], np.dtype]:
    return np.shape(leaf), leaf.dtype


def test_scores_come_by_row(found):
    for score in found.scores.values():
        if isinstance(score, Binned):
            assert score.bin.shape == score.score.shape and score.bin.max() < score.bins
            score = score.score
        score, rows = score if isinstance(score, tuple) else (score, None)
        assert score.ndim == 1 and score.size % INDEX.size == 0 and is_finite(score)
        assert rows is None or (rows.shape == score.shape and rows.dtype == bool)


def test_shapes_are_known_before_anything_is_computed(found):
    """And every parameter that learns is one that the loss depends on, but for a classifier's."""
    task, frozen, state = found.start
    made = {name: state.variables[name] for name, net in task.stage.nets.items() if net.made}
    planned = sketch(task, frozen, made)
    assert jax.tree.map(describe, planned.state) == jax.tree.map(describe, state)
    reached = jax.tree.leaves_with_path(planned.reached)
    passed_over = {jax.tree_util.keystr(path) for path, is_reached in reached if not is_reached}
    classifier = {"['student']['fc']['kernel']", "['student']['fc']['bias']"}
    assert passed_over <= classifier
    assert not passed_over or "ce" not in task.stage.terms


def test_its_state_can_be_restored(found):
    state = found.start.state._replace(memory=found.losses.memory)
    blank = jax.tree.map(np.zeros_like, state)
    again = serialization.from_state_dict(blank, serialization.to_state_dict(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_numbers_weights_schedules_and_tests(name):
    entry, method = ENTRIES[name], configured(name)
    assert "code" in entry.weights
    *_, last = method.values()
    assert all(set(weights) == set(last.terms) for weights in entry.weights.values())
    assert set(entry.imagenet_weights) <= set(last.terms)
    known = {*last.terms, *entry.numbers}
    assert all(set(own) <= known for own in entry.by_pair.values())
    assert not set(last.terms) & set(entry.numbers)  # so it is clear which is meant
    METHODS[name](**{**entry.numbers, **entry.imagenet_numbers})
    assert set(entry.stages("resnet20")) == set(method) - {"teacher", "student"}
    assert (Path(__file__).parent / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", METHODS)
def test_its_stages_lead_from_the_teacher_to_the_student(name):
    """A net starts only from one that learns in an earlier stage, from the same module."""
    before: dict[str, Stage] = {}
    method = configured(name)
    for stage_name, stage in method.items():
        for net in stage.nets.values():
            assert net.start or net.learns or net.follows
            if net.start:
                earlier, _, source = net.start.partition("/")
                assert before[earlier].nets[source].learns
                assert before[earlier].nets[source].module == net.module
        before[stage_name] = stage
    assert method["student"].nets["student"].learns and not method["student"].shared
    is_common = next(iter(method.values())) is TEACHER
    assert is_common or "teacher" not in method or name == "hsakd_joint"


def test_first_weights_depend_on_the_nets_name_alone():
    """Two nets of one kind differ; one of the same name is the same beside any other net."""
    start = begin(configured("cc")["student"], partial(network, "fsp"))
    student, teacher = (start.state.params[f"{name}_embed"] for name in ("student", "teacher"))
    for one, other in zip(jax.tree.leaves(student), jax.tree.leaves(teacher), strict=True):
        assert one.shape == other.shape and (one != other).all()
    others = beginning("crd", "student").state.params["student_embed"]
    jax.tree.map(np.testing.assert_array_equal, student, others)
