"""Branches against HSAKD's counts, names and values, and what they promise for all families."""

import json
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from golden import Golden, assert_near
from recorded import LEAVES, TO_FLAX, TO_TORCH
from shapes import shapes

from sskd_jax.layers.norm import folded
from sskd_jax.models import MODELS
from sskd_jax.models import network as models_network
from sskd_jax.models.network import Network
from sskd_jax.models.resnet import ResNet
from sskd_jax.types import Outputs

RECORDED = ("wrn_40_2", "wrn_16_2", "vgg13", "resnet8x4", "ShuffleV1", "mobilenetV2")
THIN = ("wrn_40_1", "resnet56", "resnet20", "resnet32x4", "vgg8", "ShuffleV2", "ResNet50")
COUNTED = (*RECORDED, *THIN, "resnet18", "resnet34")
OURS = {"mobilenetV2": "MobileNetV2s1"}  # the names here that are others there
PREFIXES = ("backbone.", "auxiliary_classifier.")
Variables = dict[str, Any]


class Run(NamedTuple):
    """What a network and its branches give with the reference's weights, and should give."""

    spec: dict[str, Any]
    gold: dict[str, np.ndarray]
    evaluated: tuple[Outputs, tuple[jax.Array, ...]]
    trained: tuple[Outputs, tuple[jax.Array, ...]]
    moved: tuple[Variables, Variables]


@pytest.fixture(scope="module")
def gold(shared) -> Golden:
    return Golden(shared / "golden")


@pytest.fixture(scope="module")
def specs(gold) -> dict[str, Any]:
    return json.loads((gold.folder / "hsakd.json").read_text())


def network_of(name: str, num_classes: int = 100, **options: Any) -> Network:
    return MODELS[OURS.get(name, name)](num_classes=num_classes, **options)


def both_shapes(network: Network, size: int = 32) -> tuple[Variables, Variables]:
    """The variables of a network and of its branches, shapes only."""
    outputs, variables = shapes(network, (size, size, 3))
    return variables, jax.eval_shape(network.branches.init, jax.random.key(0), outputs.maps)


def torch_names(variables: Variables, prefix: str) -> dict[str, tuple[str, ...]]:
    """Where in the variables each entry of the state_dict is."""
    return {
        prefix + ".".join([*path[1:-1], LEAVES[path[-1]]]): path for path in flatten_dict(variables)
    }


def filled(variables: Variables, prefix: str, gold: Golden) -> Variables:
    """The reference's weights in place of shapes."""
    leaves = flatten_dict(variables)
    found = {}
    for name, path in torch_names(variables, prefix).items():
        shape = leaves[path].shape
        weight = gold.fill(name, [shape[axis] for axis in TO_TORCH[len(shape)]], 0)
        found[path] = weight.transpose(TO_FLAX[len(shape)])
    return unflatten_dict(found)


@pytest.fixture(scope="module", params=RECORDED)
def run(request, gold, specs) -> Run:
    network = network_of(request.param)
    pairs = zip(both_shapes(network), PREFIXES, strict=True)
    weights = tuple(filled(variables, prefix, gold) for variables, prefix in pairs)

    def evaluate(weights, image):
        outputs = network.apply(weights[0], image)
        return outputs, network.branches.apply(weights[1], outputs.maps)

    def train(weights, image):
        options = dict(train=True, mutable=["batch_stats"])
        outputs, moved = network.apply(weights[0], image, **options)
        logits, moved_too = network.branches.apply(weights[1], outputs.maps, **options)
        return (outputs, logits), (moved, moved_too)

    program = jax.jit(lambda *args: (evaluate(*args), *train(*args)))
    results = program(weights, gold.images(0, 8))
    return Run(specs[request.param], gold.under("hsakd.npz", request.param), *results)


def test_all_that_is_recorded_is_tested(specs):
    assert set(COUNTED) == set(specs["_counts"])
    assert set(RECORDED) == {name for name in specs if not name.startswith("_")}


@pytest.mark.parametrize("name", COUNTED)
def test_parameter_counts(name, specs):
    counts = specs["_counts"][name]
    network = network_of(name, counts["classes"])
    variables, branches = both_shapes(network)
    found = Counter()
    for (module, *_), leaf in flatten_dict(branches["params"]).items():
        # The branch's number is the last digit of the first part of a name: conv2_1.0, bn1, ...
        found[int(module.split(".")[0][-1])] += leaf.size
    backbone = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert backbone == counts["backbone"]
    assert [found[branch + 1] for branch in range(len(found))] == counts["branches"]
    assert backbone + found.total() == counts["total"]


@pytest.mark.parametrize("name", RECORDED)
def test_names_and_shapes_are_those_of_the_state_dict(name, specs):
    ours = {}
    for variables, prefix in zip(both_shapes(network_of(name)), PREFIXES, strict=True):
        leaves = flatten_dict(variables)
        for key, path in torch_names(variables, prefix).items():
            shape = leaves[path].shape
            ours[key] = [shape[axis] for axis in TO_TORCH[len(shape)]]
    assert ours == dict(specs[name]["state_dict"])


@pytest.mark.parametrize("name", RECORDED)
def test_branches_stand_behind_the_maps_of_the_reference(name, specs):
    network = network_of(name)
    outputs, _ = shapes(network, (32, 32, 3))
    taps = [outputs.maps[tap].shape for tap in network.taps]
    expected = [(h, w, c) for _, c, h, w in specs[name]["tap_shapes_nchw"]]
    assert [shape[1:] for shape in taps] == expected


def test_evaluation_is_the_reference(run):
    outputs, branches = run.evaluated
    assert_near(outputs.logits, run.gold["eval_logits"], 1e-4)
    assert_near(outputs.embed[:2], run.gold["eval_pooled"], 1e-4)
    assert len(branches) == len(run.spec["branch_params"])
    for branch, logits in enumerate(branches):
        assert_near(logits[:4], run.gold[f"eval_aux{branch}"], 1e-4)


def test_training_is_the_reference(run):
    outputs, branches = run.trained
    assert_near(outputs.logits, run.gold["train_logits"], 1e-4)
    for branch, logits in enumerate(branches):
        assert_near(logits[:4], run.gold[f"train_aux{branch}"], 1e-4)


@pytest.mark.parametrize(
    ("leaf", "expected"), [("running_mean", "bn_mean_l2"), ("running_var", "bn_var_l2")]
)
def test_running_statistics_are_the_reference(leaf, expected, run):
    norms = {}
    for moved, prefix in zip(run.moved, PREFIXES, strict=True):
        leaves = flatten_dict(moved)
        for name, path in torch_names(moved, prefix).items():
            norms[name] = np.linalg.norm(leaves[path])
    names = [name for name, _ in run.spec["state_dict"] if name.endswith(leaf)]
    np.testing.assert_allclose([norms[name] for name in names], run.gold[expected], rtol=1e-4)


def test_the_two_mobilenets_have_the_same_parameters_but_other_maps():
    ours, theirs = (network_of(name) for name in ("MobileNetV2", "MobileNetV2s1"))
    assert both_shapes(ours) == both_shapes(theirs)
    small, large = (shapes(network, (32, 32, 3))[0].maps for network in (ours, theirs))
    assert [2 * x.shape[1] for x in small] == [x.shape[1] for x in large]


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "ShuffleV2", "resnet18"])
def test_bfloat16_keeps_logits_and_parameters_in_float32(name):
    network = network_of(name, dtype=jnp.bfloat16)
    outputs, _ = shapes(network, (32, 32, 3))
    init = network.branches.init_with_output
    logits, variables = jax.eval_shape(init, jax.random.key(0), outputs.maps)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, variables))} == {jnp.dtype("float32")}
    assert {x.shape for x in logits} == {(2, 400)}


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "ShuffleV2", "MobileNetV2"])
def test_every_branch_comes_down_to_the_size_of_the_last_map(name, monkeypatch):
    network = network_of(name)
    outputs, _ = shapes(network, (32, 32, 3))
    heights = pooled_heights(network, outputs, monkeypatch)
    assert heights == [outputs.maps[-1].shape[1]] * len(network.taps)


def test_branches_of_vgg_do_not_pool_a_fourth_time_at_64_pixels(monkeypatch):
    network = network_of("vgg8")
    outputs, _ = shapes(network, (64, 64, 3))
    assert outputs.maps[-1].shape[1] == 4
    assert pooled_heights(network, outputs, monkeypatch) == [8, 8, 8, 4]


def pooled_heights(
    network: Network, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """The height of the map that every branch pools."""
    heights = []

    def global_mean(x: jax.Array) -> jax.Array:
        heights.append(x.shape[1])
        return x.mean((1, 2))

    monkeypatch.setattr(models_network, "global_mean", global_mean)
    jax.eval_shape(network.branches.init, jax.random.key(0), outputs.maps)
    return heights


def tiny(*blocks: int) -> tuple[Network, Outputs, Variables]:
    """A network of so many blocks in every stage, its outputs, and its branches' variables."""
    widths = (8,) * (len(blocks) + 1)
    network = ResNet(num_classes=3, blocks=blocks, widths=widths)
    image = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    outputs, _ = network.init_with_output(jax.random.key(1), image)
    return network, outputs, network.branches.init(jax.random.key(2), outputs.maps)


def test_a_network_of_one_stage_has_one_branch():
    network, outputs, variables = tiny(2)
    (logits,) = network.branches.apply(variables, outputs.maps)
    assert logits.shape == (4, 12)
    assert set(variables["params"]) == {"block_extractor1.0.0", "block_extractor1.0.1", "fc1"}


def test_a_branch_sees_its_own_map_alone():
    network, outputs, variables = tiny(1, 1)

    def total(maps):
        return network.branches.apply(variables, maps)[1].sum()

    stem, first, last = jax.grad(total)(outputs.maps)
    assert not stem.any() and not first.any() and last.any()


def test_branches_have_weights_of_their_own():
    *_, variables = tiny(1, 1)
    params = variables["params"]
    kernels = [params[f"block_extractor{branch}.0.0"]["conv1"]["kernel"] for branch in (1, 2)]
    assert kernels[0].shape == kernels[1].shape
    assert (kernels[0] != kernels[1]).all()


def test_folded_branches_give_the_same():
    network, outputs, variables = tiny(1, 1)
    _, moved = network.branches.apply(variables, outputs.maps, train=True, mutable=["batch_stats"])
    variables |= moved
    constants = {"params": folded(**variables, dtype=jnp.float32)}
    expected = network.branches.apply(variables, outputs.maps)
    for logits, same in zip(network.branches.apply(constants, outputs.maps), expected, strict=True):
        assert_near(logits, same, 1e-5)
