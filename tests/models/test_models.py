"""Every architecture against the reference's golden values, and what they all promise."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.errors import ScopeCollectionNotFound
from flax.traverse_util import flatten_dict
from golden import Golden, assert_near
from recorded import LEAVES, TO_TORCH
from shapes import shapes

from sskd_jax.axis import AXIS
from sskd_jax.exchange import torch_bridge
from sskd_jax.layers.norm import BatchNorm, folded
from sskd_jax.methods.long_tail import classifier_of
from sskd_jax.models import MODELS
from sskd_jax.models.shufflenet import shuffle
from sskd_jax.types import Outputs

# The others are done sooner when compiled layer by layer.
MANY_SHAPES = ("MobileNetV2", "ShuffleV1", "ShuffleV2")
IMAGE = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
# Numbers of parameters of torchvision's networks.
IMAGENET = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032}
# Logits of torchvision 0.28.0: the first three classes of ten, for the reference's two images,
# enlarged to 64x64.
TORCHVISION_LOGITS = {
    "resnet18": [0.293079, 0.54641, -1.199323, 0.314039, 0.645854, -1.749492],
    "resnet50": [0.244781, -1.086208, 0.740754, 0.294074, -1.028749, 0.931391],
}
# They are in test_branches and test_coca.
ELSEWHERE = ("MobileNetV2s1", "ResNet18", "ResNet18w16")
ALIKE = ("resnet14",)  # differs from recorded ones in its number of blocks alone
RECORDED = [name for name in MODELS if name not in (*IMAGENET, *ELSEWHERE, *ALIKE)]


class Recorded(NamedTuple):
    """An architecture with the reference's weights: what it should give, and what it gives."""

    name: str
    spec: dict[str, Any]
    gold: dict[str, np.ndarray]
    variables: dict[str, Any]
    evaluated: Outputs
    trained: Outputs
    batch_stats: dict[str, Any]


@pytest.fixture(scope="module")
def gold(shared) -> Golden:
    return Golden(shared / "golden")


@pytest.fixture(scope="module", params=RECORDED)
def run(request, gold) -> Recorded:
    name, network = request.param, MODELS[request.param](num_classes=100)
    variables = torch_bridge.from_state_dict(name, gold.state_dict(name, seed=0))

    def both(variables, image):
        evaluated = network.apply(variables, image)
        trained, moved = network.apply(variables, image, train=True, mutable=["batch_stats"])
        return evaluated, trained, moved["batch_stats"]

    both = jax.jit(both) if name in MANY_SHAPES else both
    results = both(variables, gold.images(0, 8))
    spec, values = gold.models[name], gold.under("models.npz", name)
    return Recorded(name, spec, values, variables, *results)


def shapes_of(name: str, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A network and its variables, shapes only."""
    network = MODELS[name](num_classes=100, **options)
    return network, shapes(network, (32, 32, 3))[1]


def in_training(
    network: nn.Module, variables: dict[str, Any], image: Any = IMAGE
) -> tuple[Outputs, dict[str, Any]]:
    """Shapes of the outputs and of the moved statistics."""
    train = partial(network.apply, train=True, mutable=["batch_stats"])
    return jax.eval_shape(train, variables, image)


def test_every_architecture_is_recorded(gold):
    assert set(RECORDED) == set(gold.models)


@pytest.mark.parametrize("name", RECORDED)
def test_names_and_shapes_are_those_of_the_state_dict(name, gold):
    leaves = flatten_dict(shapes_of(name)[1])
    ours = {}
    for (_, *modules, leaf_name), leaf in leaves.items():
        key = ".".join([*modules, LEAVES[leaf_name]])
        ours[key] = [leaf.shape[axis] for axis in TO_TORCH[leaf.ndim]]
    assert ours == dict(gold.models[name]["state_dict"])
    parameters = sum(leaf.size for path, leaf in leaves.items() if path[0] == "params")
    assert parameters == gold.models[name]["num_params"]


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_names_and_counts_are_torchvisions(name):
    places = torch_bridge._places(name, 1000)
    depths = (2, 2, 2, 2) if name == "resnet18" else (3, 4, 6, 3)
    convs = 3 if name == "resnet50" else 2
    norms = ["bn1"]
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            norms += [f"layer{stage}.{block}.bn{n}" for n in range(1, convs + 1)]
    # The first stage projects where it is wider than the stem.
    norms += [f"layer{stage}.0.downsample.1" for stage in range(1 if convs == 3 else 2, 5)]
    expected = {"fc.weight", "fc.bias"}
    for norm in norms:
        conv = norm.replace("bn", "conv").replace("downsample.1", "downsample.0")
        expected.add(f"{conv}.weight")
        leaves = ("weight", "bias", "running_mean", "running_var")
        expected |= {f"{norm}.{leaf}" for leaf in leaves}
    assert set(places) == expected
    assert places["conv1.weight"][1] == (64, 3, 7, 7)
    assert places["fc.weight"][1][0] == 1000
    parameters = [shape for key, (_, shape) in places.items() if "running" not in key]
    assert sum(map(np.prod, parameters)) == IMAGENET[name]


@pytest.mark.parametrize("name", TORCHVISION_LOGITS)
def test_imagenet_networks_are_torchvisions(name, gold):
    places = torch_bridge._places(name, 10)
    state = {key: gold.fill(key, shape, 0) for key, (_, shape) in places.items()}
    variables = torch_bridge.from_state_dict(name, state)
    image = gold.images(0, 2).repeat(2, 1).repeat(2, 2)
    network = jax.jit(MODELS[name](num_classes=10).apply)
    logits = network(variables, image).logits
    assert_near(logits[:, :3].ravel(), TORCHVISION_LOGITS[name], 1e-4)


def test_imagenet_maps_behind_the_pooled_stem():
    outputs, _ = shapes(MODELS["resnet18"](num_classes=1000), (224, 224, 3))
    sizes_and_widths = [(56, 64), (56, 64), (28, 128), (14, 256), (7, 512)]
    assert [x.shape[1::2] for x in outputs.maps] == sizes_and_widths
    assert [x.shape for x in outputs.preacts] == [x.shape for x in outputs.maps]
    assert outputs.embed.shape == (2, 512)


def test_evaluation_is_the_reference(run):
    assert_near(run.evaluated.logits, run.gold["eval_logits"], 1e-4)
    assert_near(run.evaluated.embed, run.gold["eval_pooled"], 1e-4)


def test_training_is_the_reference(run):
    assert_near(run.trained.logits, run.gold["train_logits"], 1e-4)
    moved = flatten_dict(run.batch_stats)
    last = {path[-1]: x for path, x in moved.items() if ".".join(path[:-1]) == run.spec["last_bn"]}
    assert_near(last["mean"], run.gold["bn_last_mean"], 1e-4)
    assert_near(last["var"], run.gold["bn_last_var"], 1e-4)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", *MANY_SHAPES])
def test_a_folded_network_gives_the_same(name, gold):
    network = MODELS[name](num_classes=100)
    variables = torch_bridge.from_state_dict(name, gold.state_dict(name, seed=0))
    constants = {"params": folded(**variables, dtype=jnp.float32)}
    evaluate = partial(jax.jit(network.apply), image=gold.images(0, 2))
    jax.tree.map(partial(assert_near, tolerance=1e-5), evaluate(constants), evaluate(variables))


def test_training_needs_statistics():
    network, variables = shapes_of("resnet8")
    with pytest.raises(ScopeCollectionNotFound):
        jax.eval_shape(partial(network.apply, train=True), {"params": variables["params"]}, IMAGE)


def test_folding_changes_the_type_of_kernels_alone(gold):
    variables = torch_bridge.from_state_dict("wrn_16_1", gold.state_dict("wrn_16_1", seed=0))
    for path, leaf in flatten_dict(folded(**variables, dtype=jnp.bfloat16)).items():
        is_conv = path[-1] == "kernel" and path[-2] != "fc"
        assert leaf.dtype == (jnp.bfloat16 if is_conv else jnp.float32), path


def test_maps_have_the_shapes_of_the_reference(run):
    *maps, pooled = run.spec["feature_shapes_nchw"]
    assert [list(x.shape) for x in run.evaluated.maps] == [[n, h, w, c] for n, c, h, w in maps]
    assert [x.shape for x in run.evaluated.preacts] == [x.shape for x in run.evaluated.maps]
    assert list(run.evaluated.embed.shape) == pooled == [8, run.spec["pooled_dim"]]


def test_maps_belong_to_their_preactivations(run):
    expected = [np.maximum(x, 0) for x in run.evaluated.preacts]
    actual = list(run.evaluated.maps)
    if run.name.startswith("wrn"):  # the next stage normalises and rectifies these sums
        expected = [run.evaluated.preacts[0], *normalised(run)]
        actual[1:] = run.evaluated.preacts[1:]
    elif run.name == "MobileNetV2":  # has no ReLU after its maps
        expected = run.evaluated.preacts
    elif run.name == "ShuffleV2":  # shuffles after the ReLU, and has a rectified stem
        expected[1:] = [shuffle(x, 2) for x in expected[1:]]
    for x, y in zip(actual, expected, strict=True):
        assert_near(x, y, 1e-6)


def test_preactivations_behind_the_stem_are_in_front_of_their_relu(run):
    assert all((x < 0).any() for x in run.evaluated.preacts[1:])


def normalised(run: Recorded) -> list[np.ndarray]:
    """A WRN's stages after the batch norm of the next stage or, of the last one, of the neck."""
    leaves = flatten_dict(run.variables)
    places = (("block2.layer.0", "bn1"), ("block3.layer.0", "bn1"), ("bn1",))
    found = []
    for place, x in zip(places, run.evaluated.maps[1:], strict=True):
        scale, bias = (leaves["params", *place, leaf] for leaf in ("scale", "bias"))
        mean, var = (leaves["batch_stats", *place, leaf] for leaf in ("mean", "var"))
        found.append((np.asarray(x) - mean) / np.sqrt(var + 1e-5) * scale + bias)
    return found


def test_embedding_feeds_the_classifier(run):
    logits = run.evaluated.logits
    kernel, bias = classifier_of(run.variables["params"], logits.shape[1])
    assert_near(np.asarray(run.evaluated.embed) @ kernel + bias, logits, 1e-5)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", *MANY_SHAPES])
def test_bfloat16_keeps_outputs_and_parameters_in_float32(name):
    network, variables = shapes_of(name, dtype=jnp.bfloat16)
    outputs, moved = in_training(network, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, moved))} == {jnp.dtype("float32")}
    assert (outputs.logits.dtype, outputs.embed.dtype) == (jnp.float32, jnp.float32)
    assert {x.dtype for x in outputs.maps} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "resnet18", *MANY_SHAPES])
def test_nothing_is_summed_in_bfloat16(name):
    network, variables = shapes_of(name, dtype=jnp.bfloat16)

    def total(params, batch_stats, image):
        variables = {"params": params, "batch_stats": batch_stats}
        return network.apply(variables, image, train=True, mutable=["batch_stats"])[0].logits.sum()

    traced = jax.jit(jax.grad(total)).trace(variables["params"], variables["batch_stats"], IMAGE)
    for platform in ("cpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        reductions = [line for line in text.splitlines() if "stablehlo.reduce(" in line]
        sums = [line for line in reductions if "stablehlo.add" in line]
        assert len(sums) > 10
        assert not [line for line in sums if "bf16" in line]
        windows = [part.partition("})")[0] for part in text.split("stablehlo.reduce_window")[1:]]
        assert not [one for one in windows if "stablehlo.add" in one and "bf16" in one]


def test_linear_layers_are_float32_on_every_chip():
    """By default, GPUs and TPUs would round what they multiply."""
    network, variables = shapes_of("resnet8", dtype=jnp.bfloat16)
    text = jax.jit(network.apply).lower(variables, IMAGE).as_text()
    (product,) = (line for line in text.splitlines() if "dot_general" in line)
    assert "precision = [HIGHEST, HIGHEST]" in product


def test_bfloat16_is_near_float32_but_not_it(gold):
    variables = torch_bridge.from_state_dict("resnet8", gold.state_dict("resnet8", seed=0))
    network = MODELS["resnet8"](num_classes=100, dtype=jnp.bfloat16)
    logits = jax.jit(network.apply)(variables, gold.images(0, 8)).logits
    expected = gold.under("models.npz", "resnet8")["eval_logits"]
    assert 1e-4 < np.abs(logits - expected).max() / np.abs(expected).max() < 3e-2


@pytest.mark.parametrize(("size", "heights"), [(32, [32, 16, 8, 4, 4]), (64, [64, 32, 16, 8, 4])])
def test_vgg_pools_a_fourth_time_at_64_pixels_only(size, heights):
    network, variables = shapes_of("vgg8")
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    outputs, _ = in_training(network, variables, image)
    assert [x.shape[1] for x in outputs.maps] == heights


# Batch norm over several devices.


def normalise(devices: int, x: np.ndarray) -> tuple[Any, Any, Any]:
    """x [N, H, W, C] spread over so many devices, normalised.

    Returns:
      The output, the moved statistics of every device, the gradient of the sum of cubes by x.
    """
    norm = BatchNorm(train=True)
    variables = {
        "params": {"scale": jnp.array([1.5, 0.5, 1.0]), "bias": jnp.array([0.1, -0.2, 0.3])},
        "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)},
    }

    def program(x):
        def total(x):
            y, moved = norm.apply(variables, x, mutable=["batch_stats"])
            return jnp.sum(y**3), (y, moved["batch_stats"])

        gradient, (y, moved) = jax.grad(total, has_aux=True)(x)
        return y, gradient, moved

    split = x.reshape(devices, -1, *x.shape[1:])
    y, gradient, moved = jax.pmap(program, AXIS, devices=jax.devices()[:devices])(split)
    return y.reshape(x.shape), moved, gradient.reshape(x.shape)


def test_batch_norm_on_two_devices_is_that_of_the_global_batch():
    x = np.random.default_rng(0).normal(2, 3, (8, 4, 4, 3)).astype(np.float32)
    x[4:] += 5  # the halves differ, so statistics of one of them would be noticed
    (y, moved, gradient), (one_y, one_moved, one_gradient) = normalise(2, x), normalise(1, x)
    assert_near(y, one_y, 1e-5)
    assert_near(gradient, one_gradient, 1e-4)
    for name in ("mean", "var"):
        np.testing.assert_allclose(moved[name], np.repeat(one_moved[name], 2, 0), rtol=1e-5)


def test_batch_norm_moves_towards_mean_and_unbiased_variance():
    x = np.random.default_rng(1).normal(2, 3, (2, 2, 2, 3)).astype(np.float32)
    y, moved, _ = normalise(2, x)
    rows = x.reshape(-1, 3)
    np.testing.assert_allclose(moved["mean"][0], 0.1 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moved["var"][0], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)
    expected = (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * [1.5, 0.5, 1.0] + [0.1, -0.2, 0.3]
    assert_near(y, expected, 1e-5)


def test_batch_norm_of_bfloat16_images_computes_in_float32():
    """A mean far from zero, and gradients that are sums of thousands.

    In bfloat16, both would be off by a percent.
    """
    random = np.random.default_rng(2)
    x = jnp.asarray(random.normal(20, 1, (64, 8, 8, 3)), jnp.bfloat16)
    weight = jnp.asarray(random.uniform(0, 2, x.shape), jnp.bfloat16)
    variables = {
        "params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
        "batch_stats": {"mean": jnp.full(3, 20.0), "var": jnp.ones(3)},
    }

    def total(params, dtype):
        y = BatchNorm(dtype=dtype).apply(variables | {"params": params}, x.astype(dtype))
        return jnp.sum(y.astype(jnp.float32) * weight), y

    (gradient, y), (exact_gradient, exact_y) = (
        jax.grad(total, has_aux=True)(variables["params"], dtype)
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    np.testing.assert_array_equal(y, exact_y.astype(jnp.bfloat16))
    np.testing.assert_allclose(gradient["bias"], exact_gradient["bias"], rtol=1e-5)
    np.testing.assert_allclose(gradient["scale"], exact_gradient["scale"], rtol=1e-5)
