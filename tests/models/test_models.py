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

from sskd_jax.exchange import torch_bridge
from sskd_jax.layers.norm import BatchNorm, folded
from sskd_jax.models import MODELS, mobilenetv2
from sskd_jax.models.shufflenet import shuffle
from sskd_jax.types import Outputs

FAST = {"xla_backend_optimization_level": 0}  # compiling is most of the cost here
MANY_SHAPES = (
    "MobileNetV2",
    "ShuffleV1",
    "ShuffleV2",
)  # others are done sooner when compiled layer by layer
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
TO_TORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
IMAGE = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)


class Recorded(NamedTuple):
    """An architecture with the reference's weights: what it should give, and what it gives."""

    name: str
    spec: dict[str, Any]
    gold: dict[str, np.ndarray]
    network: nn.Module
    variables: dict[str, Any]
    evaluated: Outputs
    trained: Outputs
    batch_stats: dict[str, Any]


@pytest.fixture(scope="module")
def gold(shared) -> Golden:
    return Golden(shared / "golden")


IMAGENET = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
}  # torchvision's parameters
TORCHVISION_LOGITS = {  # 0.28.0's, of the first classes of ten, for the reference's two images at 64x64
    "resnet18": [0.293079, 0.54641, -1.199323, 0.314039, 0.645854, -1.749492],
    "resnet50": [0.244781, -1.086208, 0.740754, 0.294074, -1.028749, 0.931391],
}
RECORDED = [name for name in MODELS if name not in IMAGENET]


@pytest.fixture(scope="module", params=RECORDED)
def run(request, gold) -> Recorded:
    name, network = request.param, MODELS[request.param](num_classes=100)
    variables = torch_bridge.from_state_dict(name, gold.state_dict(name, seed=0))

    def both(variables, image):
        return network.apply(variables, image), network.apply(
            variables, image, train=True, mutable=["batch_stats"]
        )

    both = jax.jit(both, compiler_options=FAST) if name in MANY_SHAPES else both
    evaluated, (trained, moved) = both(variables, gold.images(0, 8))
    return Recorded(
        name,
        gold.models[name],
        gold.under("models.npz", name),
        network,
        variables,
        evaluated,
        trained,
        moved["batch_stats"],
    )


def shapes_of(name: str, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    network = MODELS[name](num_classes=100, **options)
    return network, jax.eval_shape(network.init, jax.random.key(0), IMAGE)


def in_training(
    network: nn.Module, variables: dict[str, Any], image: Any = IMAGE
) -> tuple[Outputs, dict[str, Any]]:
    """Shapes of the outputs and of the moved statistics."""
    return jax.eval_shape(
        lambda variables, image: network.apply(
            variables, image, train=True, mutable=["batch_stats"]
        ),
        variables,
        image,
    )


def test_every_architecture_is_recorded(gold):
    assert set(RECORDED) == set(gold.models)


@pytest.mark.parametrize("name", RECORDED)
def test_names_and_shapes_are_those_of_the_state_dict(name, gold):
    leaves = flatten_dict(shapes_of(name)[1])
    ours = {
        ".".join([*path[1:-1], LEAVES[path[-1]]]): [
            leaf.shape[axis] for axis in TO_TORCH[leaf.ndim]
        ]
        for path, leaf in leaves.items()
    }
    assert ours == dict(gold.models[name]["state_dict"])
    parameters = sum(leaf.size for path, leaf in leaves.items() if path[0] == "params")
    assert parameters == gold.models[name]["num_params"]


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_names_and_counts_are_torchvisions(name):
    places = torch_bridge._places(name, 1000)
    depths, convs = (
        {"resnet18": (2, 2, 2, 2)}.get(name, (3, 4, 6, 3)),
        3 if name == "resnet50" else 2,
    )
    norms = ["bn1"] + [
        f"layer{stage}.{i}.bn{n}"
        for stage, depth in enumerate(depths, 1)
        for i in range(depth)
        for n in range(1, convs + 1)
    ]
    norms += [f"layer{stage}.0.downsample.1" for stage in range(1 if convs == 3 else 2, 5)]
    weights = [norm.replace("bn", "conv").replace("downsample.1", "downsample.0") for norm in norms]
    expected = (
        {f"{name}.weight" for name in (*weights, "fc")}
        | {"fc.bias"}
        | {
            f"{norm}.{leaf}"
            for norm in norms
            for leaf in ("weight", "bias", "running_mean", "running_var")
        }
    )
    assert set(places) == expected
    assert places["conv1.weight"][1] == (64, 3, 7, 7) and places["fc.weight"][1][0] == 1000
    assert (
        sum(np.prod(shape) for key, (_, shape) in places.items() if "running" not in key)
        == IMAGENET[name]
    )


@pytest.mark.parametrize("name", TORCHVISION_LOGITS)
def test_imagenet_networks_are_torchvisions(name, gold):
    state = {
        key: gold.fill(key, shape, 0) for key, (_, shape) in torch_bridge._places(name, 10).items()
    }
    image = gold.images(0, 2).repeat(2, 1).repeat(2, 2)
    network = jax.jit(MODELS[name](num_classes=10).apply, compiler_options=FAST)
    logits = network(torch_bridge.from_state_dict(name, state), image).logits
    assert_near(logits[:, :3].ravel(), TORCHVISION_LOGITS[name], 1e-4)


def test_imagenet_maps_behind_the_pooled_stem():
    network = MODELS["resnet18"](num_classes=1000)
    outputs = jax.eval_shape(
        network.init_with_output, jax.random.key(0), jnp.zeros((1, 224, 224, 3))
    )[0]
    assert [x.shape[1::2] for x in outputs.maps] == [
        (56, 64),
        (56, 64),
        (28, 128),
        (14, 256),
        (7, 512),
    ]
    assert [x.shape for x in outputs.preacts] == [
        x.shape for x in outputs.maps
    ] and outputs.embed.shape == (1, 512)


def test_evaluation_is_the_reference(run):
    assert_near(run.evaluated.logits, run.gold["eval_logits"], 1e-4)
    assert_near(run.evaluated.embed, run.gold["eval_pooled"], 1e-4)


def test_training_is_the_reference(run):
    assert_near(run.trained.logits, run.gold["train_logits"], 1e-4)
    moved = flatten_dict(run.batch_stats)
    last = {
        path[-1]: value
        for path, value in moved.items()
        if ".".join(path[:-1]) == run.spec["last_bn"]
    }
    assert_near(last["mean"], run.gold["bn_last_mean"], 1e-4)
    assert_near(last["var"], run.gold["bn_last_var"], 1e-4)


@pytest.mark.parametrize(
    "name", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"]
)
def test_a_folded_network_gives_the_same(name, gold):
    network = MODELS[name](num_classes=100)
    variables = torch_bridge.from_state_dict(name, gold.state_dict(name, seed=0))
    constants = {"params": folded(**variables, dtype=jnp.float32)}
    evaluate = partial(jax.jit(network.apply, compiler_options=FAST), image=gold.images(0, 2))
    jax.tree.map(partial(assert_near, tolerance=1e-5), evaluate(constants), evaluate(variables))


def test_training_needs_statistics():
    network, variables = shapes_of("resnet8")
    with pytest.raises(ScopeCollectionNotFound):
        jax.eval_shape(partial(network.apply, train=True), {"params": variables["params"]}, IMAGE)


def test_folding_changes_the_type_of_kernels_alone(gold):
    variables = torch_bridge.from_state_dict("wrn_16_1", gold.state_dict("wrn_16_1", seed=0))
    for path, leaf in flatten_dict(folded(**variables, dtype=jnp.bfloat16)).items():
        assert leaf.dtype == (
            jnp.bfloat16 if path[-1] == "kernel" and path[-2] != "fc" else jnp.float32
        ), path


def test_maps_have_the_shapes_of_the_reference(run):
    *maps, pooled = run.spec["feature_shapes_nchw"]
    assert [list(x.shape) for x in run.evaluated.maps] == [[n, h, w, c] for n, c, h, w in maps]
    assert [x.shape for x in run.evaluated.preacts] == [x.shape for x in run.evaluated.maps]
    assert list(run.evaluated.embed.shape) == pooled == [8, run.spec["pooled_dim"]]


def test_maps_belong_to_their_preactivations(run):
    """A WRN's maps are sums whose batch norm and ReLU the next stage has; MobileNetV2's have no ReLU."""
    expected = [np.maximum(x, 0) for x in run.evaluated.preacts]
    actual = list(run.evaluated.maps)
    if run.name.startswith("wrn"):
        expected, actual = (
            [run.evaluated.preacts[0], *normalised(run)],
            [actual[0], *run.evaluated.preacts[1:]],
        )
    elif run.name == "MobileNetV2":
        expected = run.evaluated.preacts
    elif run.name == "ShuffleV2":  # shuffles behind the ReLU, and has a rectified stem
        expected = expected[:1] + [shuffle(x, 2) for x in expected[1:]]
    for x, y in zip(actual, expected, strict=True):
        assert_near(x, y, 1e-6)


def test_preactivations_behind_the_stem_are_in_front_of_their_relu(run):
    assert all((x < 0).any() for x in run.evaluated.preacts[1:])


def normalised(run: Recorded) -> list[np.ndarray]:
    """A WRN's stages behind the batch norm that follows: the next stage's first, and the network's last."""
    leaves = flatten_dict(run.variables)
    places = (("block2.layer.0", "bn1"), ("block3.layer.0", "bn1"), ("bn1",))
    found = []
    for place, x in zip(places, run.evaluated.maps[1:], strict=True):
        scale, bias = (leaves["params", *place, leaf] for leaf in ("scale", "bias"))
        mean, var = (leaves["batch_stats", *place, leaf] for leaf in ("mean", "var"))
        found.append((np.asarray(x) - mean) / np.sqrt(var + 1e-5) * scale + bias)
    return found


def test_embedding_feeds_the_classifier(run):
    classifier = {
        leaf.ndim: leaf
        for path, leaf in flatten_dict(run.variables["params"]).items()
        if path[0] in ("fc", "linear", "classifier")
    }
    assert_near(
        np.asarray(run.evaluated.embed) @ classifier[2] + classifier[1], run.evaluated.logits, 1e-5
    )


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

    program = (
        jax.jit(jax.grad(total))
        .lower(variables["params"], variables["batch_stats"], IMAGE)
        .as_text()
    )
    sums = [
        line
        for line in program.splitlines()
        if "stablehlo.reduce(" in line and "stablehlo.add" in line
    ]
    assert len(sums) > 10 and not [line for line in sums if "bf16" in line]


def test_bfloat16_is_near_float32_but_not_it(gold):
    variables = torch_bridge.from_state_dict("resnet8", gold.state_dict("resnet8", seed=0))
    network = MODELS["resnet8"](num_classes=100, dtype=jnp.bfloat16)
    logits = jax.jit(network.apply)(variables, gold.images(0, 8)).logits
    expected = gold.under("models.npz", "resnet8")["eval_logits"]
    assert 1e-4 < np.abs(logits - expected).max() / np.abs(expected).max() < 3e-2


@pytest.mark.parametrize(("size", "heights"), [(32, [32, 16, 8, 4, 4]), (64, [64, 32, 16, 8, 4])])
def test_vgg_pools_a_fourth_time_at_64_pixels_only(size, heights):
    network, variables = shapes_of("vgg8")
    outputs, _ = in_training(
        network, variables, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    )
    assert [x.shape[1] for x in outputs.maps] == heights


# Batch norm over several devices.


def normalise(devices: int, x: np.ndarray) -> tuple[Any, Any, Any]:
    """(output, moved statistics, gradient of a sum of cubes) of x [N, H, W, C] spread over so many devices."""
    norm = BatchNorm(train=True, axis_name="batch")
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
    y, gradient, moved = jax.pmap(program, "batch", devices=jax.devices()[:devices])(split)
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
    """A mean far from zero, and gradients that are sums of thousands: in bfloat16, both would be off by a percent."""
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


# What the networks start from, as section 2 of the reference's description has it.

FAN_OUT, FAN_IN = "normal by fan-out", "uniform by fan-in"
STARTS = {  # convolutions; standard deviation of the classifier, None for uniform by fan-in; whether its bias is zero
    "resnet8x4": (FAN_OUT, None, False),
    "wrn_16_2": (FAN_OUT, None, True),
    "vgg8": (FAN_OUT, 0.01, True),
    "MobileNetV2": (FAN_OUT, 0.01, True),
    "ShuffleV1": (FAN_IN, None, False),
    "ShuffleV2": (FAN_IN, None, False),
}


@pytest.fixture(scope="module", params=STARTS)
def begun(request) -> tuple[str, dict[tuple[str, ...], np.ndarray]]:
    network = MODELS[request.param](num_classes=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            mobilenetv2, "STAGES", mobilenetv2.STAGES[:3]
        )  # more of the same takes long to compile
        variables = jax.jit(network.init, compiler_options=FAST)(
            jax.random.key(0), jnp.zeros((1, 32, 32, 3))
        )
    return request.param, {path: np.asarray(leaf) for path, leaf in flatten_dict(variables).items()}


def expected_std(shape: tuple[int, ...], kind: str) -> float:
    k, _, inputs, outputs = shape
    return np.sqrt(2 / (k * k * outputs)) if kind == FAN_OUT else np.sqrt(1 / (3 * k * k * inputs))


def test_convolutions_start_from_the_reference_distribution(begun):
    name, leaves = begun
    kind, standard = STARTS[name][0], []
    for path, leaf in leaves.items():
        if leaf.ndim == 4:
            std = expected_std(leaf.shape, kind)
            assert abs(leaf.std() / std - 1) < 6 / np.sqrt(2 * leaf.size), path
            assert abs(leaf.mean() / std) < 6 / np.sqrt(leaf.size), path
            standard.append(leaf.ravel() / std)
    largest = np.abs(np.concatenate(standard)).max()
    assert 4 < largest < 8 if kind == FAN_OUT else 0.999 < largest / np.sqrt(3) <= 1 + 1e-6


def test_classifiers_start_from_the_reference_distribution(begun):
    name, leaves = begun
    _, std, no_bias = STARTS[name]
    (kernel,) = (leaf for leaf in leaves.values() if leaf.ndim == 2)
    (bias,) = (
        leaf
        for path, leaf in leaves.items()
        if path[-2] in ("fc", "linear", "classifier") and leaf.ndim == 1
    )
    bound = len(kernel) ** -0.5
    assert abs(kernel.std() / (std or bound / np.sqrt(3)) - 1) < 6 / np.sqrt(2 * kernel.size)
    assert np.abs(kernel).max() > 3 * std if std else 0.99 * bound < np.abs(kernel).max() <= bound
    assert not bias.any() if no_bias else 0.9 * bound < np.abs(bias).max() <= bound


def test_batch_norms_and_biases_of_convolutions_start_neutral(begun):
    name, leaves = begun
    values = {"scale": 1, "var": 1, "mean": 0, "bias": 0}
    neutral = {
        path: leaf
        for path, leaf in leaves.items()
        if path[-1] in values and path[-2] not in ("fc", "linear", "classifier")
    }
    assert all((leaf == values[path[-1]]).all() for path, leaf in neutral.items())
    assert {path[-1] for path in neutral} == set(values)


def test_layers_of_one_shape_start_differently(begun):
    _, leaves = begun
    kernels = [leaf.tobytes() for leaf in leaves.values() if leaf.ndim == 4]
    assert len(set(kernels)) == len(kernels) > 4
