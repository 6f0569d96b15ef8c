"""Knowledge review against numpy."""

from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from golden import Golden, assert_near
from pairs import arrays, check_at_ties, check_blind, given_losses, outputs

from sskd_jax.methods.reviewkd import Fusion, Review, context_loss, knowledge, reviewkd, risen
from sskd_jax.types import Outputs, UserError

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


@pytest.mark.parametrize("name", [f"map{i}" for i in range(7)])
def test_the_context_loss_of_the_authors(shared, name):
    gold = Golden(shared / "golden").under("losses_recent.npz", f"reviewkd_hcl/{name}")
    found = jax.jit(jax.value_and_grad(context_loss))(gold["in/student"], gold["in/teacher"])
    for ours, key in zip(found, ("hcl", "grad/student"), strict=True):
        assert_near(ours, gold[key], 1e-4)


def recorded_parameters(gold: dict[str, np.ndarray]) -> dict:
    """The authors' parameters by our names; they count from the deepest map."""
    layers = {
        ("conv1", "kernel"): "conv1.0.weight",
        ("norm1", "scale"): "conv1.1.weight",
        ("norm1", "bias"): "conv1.1.bias",
        ("conv2", "kernel"): "conv2.0.weight",
        ("norm2", "scale"): "conv2.1.weight",
        ("norm2", "bias"): "conv2.1.bias",
        ("attention", "conv", "kernel"): "att_conv.0.weight",
        ("attention", "conv", "bias"): "att_conv.0.bias",
    }
    return {
        (f"{place}", *ours): as_ours(gold[f"abfs.{3 - place}.{theirs}"])
        for place in range(4)
        for ours, theirs in layers.items()
        if f"abfs.{3 - place}.{theirs}" in gold
    }


def as_ours(weight: np.ndarray) -> np.ndarray:
    """A kernel [out, in, H, W] as [H, W, in, out]; vectors as they are."""
    return weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight


def test_the_fusion_of_the_authors(shared):
    gold = Golden(shared / "golden")
    params = recorded_parameters(gold.under("losses_recent.npz", "reviewkd_abf/param"))
    gradients = gold.under("losses_recent.npz", "reviewkd_abf/grad_param")
    gold = gold.under("losses_recent.npz", "reviewkd_abf")
    maps, targets = ([gold[f"in/{net}{i}"] for i in range(4)] for net in ("student", "teacher"))
    shapes = jax.eval_shape(partial(Review().init, train=True), jax.random.key(0), maps, targets)
    stats = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes["batch_stats"])
    assert set(params) == set(flatten_dict(shapes["params"]))

    @jax.jit
    def value_and_gradients(params, maps):
        def loss(params, maps):
            variables = {"params": params, "batch_stats": stats}
            fused, _ = Review().apply(variables, maps, targets, train=True, mutable=["batch_stats"])
            return sum(map(context_loss, fused, targets)), fused

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, maps)

    (value, fused), (by_params, by_maps) = value_and_gradients(unflatten_dict(params), maps)
    assert_near(value, gold["hcl"], 1e-4)
    for i in range(4):
        assert_near(fused[i], gold[f"fused{i}"], 1e-4)
        assert_near(by_maps[i], gold[f"grad/student{i}"], 1e-4)
    found, expected = flatten_dict(by_params), recorded_parameters(gradients)
    assert len(expected) == len(gradients)
    for name, gradient in expected.items():
        assert_near(found[name], gradient, 1e-4)


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
    features, deeper, target = arrays(3, 4, 4, 5), arrays(3, 2, 2, 6, seed=1), arrays(3, 8, 8, 7)
    module = Fusion(6)
    variables = jax.jit(partial(module.init, train=True))(
        jax.random.key(0), features, deeper, target
    )
    params = jax.tree.map(np.asarray, variables["params"])
    x = batch_norm(features @ params["conv1"]["kernel"][0, 0])
    y = deeper.repeat(2, 1).repeat(2, 2)
    attention = params["attention"]["conv"]
    both = np.concatenate([x, y], -1)
    share = 1 / (1 + np.exp(-(both @ attention["kernel"][0, 0] + attention["bias"])))
    x = (x * share[..., :1] + y * share[..., 1:]).repeat(2, 1).repeat(2, 2)
    args = variables, features, deeper, target, True
    (fused, passed), _ = module.apply(*args, mutable=["batch_stats"])
    np.testing.assert_allclose(passed, x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        fused, batch_norm(convolved(x, params["conv2"]["kernel"])), rtol=1e-3, atol=1e-4
    )


def test_the_deepest_is_the_embedding_alone():
    embed, target = arrays(3, 1, 1, 5), arrays(3, 1, 1, 7)
    variables = Fusion(6).init(jax.random.key(0), embed, None, target, True)
    assert set(variables["params"]) == {"conv1", "norm1", "conv2", "norm2"}


def test_what_is_passed_on_is_as_wide_as_the_deepest_map_but_no_wider_than_512():
    for width in (6, 600):
        maps = [arrays(2, 2, 2, 3), arrays(2, 1, 1, width)]
        shapes = jax.eval_shape(partial(Review().init, train=True), jax.random.key(0), maps, maps)
        assert shapes["params"]["0"]["conv1"]["kernel"].shape[-1] == min(512, width)


def network(sizes: tuple[int, ...], width: int) -> Outputs:
    """Maps of these sizes, each wider than the one before it, and an embedding of `width`."""
    maps = tuple(arrays(4, size, size, width + i, seed=i) for i, size in enumerate(sizes))
    return outputs(arrays(4, 3), arrays(4, width), *maps)


@pytest.mark.parametrize(
    ("warmup_epochs", "shares"),
    [(20, {0: 0, 5: 1 / 4, 20: 1, 100: 1}), (1, {0: 0, 1: 1}), (0, {0: 1, 7: 1})],
)
def test_the_term_rises_with_the_first_epochs(warmup_epochs, shares):
    """Or is there from the start where there are none."""
    for epoch, share in shares.items():
        np.testing.assert_allclose(risen(epoch, warmup_epochs), share)


@pytest.mark.parametrize("student_preacts", [False, True])
def test_which_of_the_students_maps_are_compared(student_preacts):
    stage = reviewkd(warmup_epochs=0, student_preacts=student_preacts, kd_temperature=4.0)
    maps, preacts = ([arrays(4, 4, 4, 3, seed=seed)] * 2 for seed in (0, 1))
    student = outputs(None, arrays(4, 3))._replace(maps=maps, preacts=preacts)
    asked = []

    def review(ours, theirs):
        asked.extend(ours)
        return theirs

    nets = {"student": student, "teacher": student, "review": review}
    given_losses(stage["student"], np.zeros(4, int), **nets)
    np.testing.assert_array_equal(asked[0], (preacts if student_preacts else maps)[1])


@pytest.mark.parametrize("sizes", [(8, 8, 4), (8, 4, 2), (16, 16, 4)])
def test_the_term_rises_with_the_epochs_and_maps_may_differ_in_size(sizes):
    stage = reviewkd(warmup_epochs=20, student_preacts=False, kd_temperature=4.0)["student"]
    student, teacher = network(sizes, 5), network((8, 8, 4), 9)
    module = stage.nets["review"].module
    student, teacher = student._replace(preacts=()), teacher._replace(maps=())
    maps = knowledge(student.maps, student.embed), knowledge(teacher.preacts, teacher.embed)
    begin = jax.jit(partial(module.init_with_output, train=True))
    fused, _ = begin(jax.random.key(0), *maps)
    assert [x.shape for x in fused] == [(4, 8, 8, 10), (4, 4, 4, 11), (4, 1, 1, 9)]
    expected = sum(context_loss(*pair) for pair in zip(fused, maps[1], strict=True))

    def review(ours, theirs):
        for found, wanted in zip((ours, theirs), maps, strict=True):
            jax.tree.map(np.testing.assert_array_equal, found, wanted)
        return fused

    @jax.jit
    def term(epoch):
        nets = {"student": student, "teacher": teacher, "review": review}
        return given_losses(stage, np.zeros(4, int), epoch=epoch, **nets).terms["review"]

    for epoch, share in ((0, 0), (5, 1 / 4), (20, 1), (100, 1)):
        np.testing.assert_allclose(term(epoch), share * expected, rtol=1e-5)


def test_networks_of_different_depth_are_told():
    stage = reviewkd(warmup_epochs=20, student_preacts=False, kd_temperature=4.0)["student"]
    pair = {"student": network((8, 8, 4), 5), "teacher": network((8, 8, 4, 4), 5)}
    with pytest.raises(UserError, match="the student has 3 and the teacher 4: choose networks of"):
        given_losses(stage, np.zeros(4, int), **pair)
