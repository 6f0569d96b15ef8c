"""The convolution with its own gradients against autodiff, in every shape of the networks."""

import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_near
from jax import lax

from sskd_jax.layers import convolution as module
from sskd_jax.layers.convolution import convolution, correlate, images_at_a_time, kernel_gradient
from sskd_jax.models import MODELS

FORMS = [
    "7x7 by 2",
    "3x3",
    "3x3 by 2",
    "1x1",
    "1x1 by 2",
    "1x1 grouped",
    "3x3 depthwise",
    "3x3 depthwise by 2",
]
# Between branches of which one is left.
CHOICE = {"stablehlo.case", "stablehlo.return", "stablehlo.constant"}


class Shape(NamedTuple):
    kernel: int
    stride: int
    groups: int
    inputs: int
    outputs: int
    size: int

    @property
    def form(self) -> str:
        depthwise = " depthwise" if self.groups == self.inputs == self.outputs else " grouped"
        stride = f" by {self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel}" + (depthwise if self.groups > 1 else "") + stride


@pytest.fixture(scope="module")
def shapes() -> set[Shape]:
    """Those of all networks, for 32x32 images."""
    found = set()

    def record(x, kernel, stride, groups):
        found.add(Shape(kernel.shape[0], stride, groups, x.shape[-1], kernel.shape[-1], x.shape[1]))
        return correlate(x, kernel, stride, groups)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "convolution", record)
        for network in MODELS.values():
            jax.eval_shape(
                network(num_classes=10).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
            )
    return found


def operands(shape: Shape, images: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, kernel and the gradient of the output, at random."""
    rng = np.random.default_rng(list(shape))
    out = -(-shape.size // shape.stride)
    sizes = (
        (images, shape.size, shape.size, shape.inputs),
        (shape.kernel, shape.kernel, shape.inputs // shape.groups, shape.outputs),
        (images, out, out, shape.outputs),
    )
    return tuple(rng.standard_normal(size).astype(np.float32) for size in sizes)


def all_three(function: Callable, shape: Shape) -> Callable:
    """(x, kernel, dy) -> output, input gradient and kernel gradient of `function`."""

    def values(x, kernel, dy):
        y, pull = jax.vjp(
            lambda x, kernel: function(x, kernel, shape.stride, shape.groups), x, kernel
        )
        return y, *pull(dy)

    return values


def check(shape: Shape, arrays: tuple[np.ndarray, ...]) -> None:
    ours, expected = (
        jax.jit(all_three(function, shape))(*arrays) for function in (convolution, correlate)
    )
    for name, one, other in zip(
        ("output", "input gradient", "kernel gradient"), ours, expected, strict=True
    ):
        try:
            assert_near(one, other, 1e-5)
        except AssertionError as error:
            raise AssertionError(f"{name} of {shape}: {error}") from error


def check_random(shape: Shape, images: int = 2) -> None:
    check(shape, operands(shape, images))


def test_forms_are_all_checked(shapes):
    assert {shape.form for shape in shapes} == set(FORMS)


@pytest.mark.parametrize("form", FORMS)
def test_every_shape_of_the_networks(form, shapes):
    chosen = sorted(shape for shape in shapes if shape.form == form)
    # Nearly all of the time is compilation, which lets go of Python's lock.
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(check_random, chosen))) >= (1 if form == "7x7 by 2" else 9)


@pytest.mark.parametrize("size", [1, 2, 5, 7])
@pytest.mark.parametrize(
    "shape",
    [
        Shape(3, 1, 1, 3, 4, 0),
        Shape(3, 2, 1, 3, 4, 0),
        Shape(1, 2, 1, 3, 4, 0),
        Shape(3, 2, 6, 6, 6, 0),
        Shape(3, 2, 2, 6, 8, 0),
        Shape(7, 2, 1, 3, 4, 0),
    ],
    ids=str,
)
def test_odd_and_tiny_maps(shape, size):
    check_random(shape._replace(size=size))


def test_depthwise_with_several_outputs_per_channel():
    check_random(Shape(3, 1, 4, 4, 8, 6))


def test_maps_need_not_be_square():
    shape = Shape(3, 2, 1, 3, 4, 9)
    x, kernel, dy = operands(shape)
    check(shape, (x[:, :6], kernel, dy[:, :3]))


@pytest.mark.parametrize("most", [1, 2, 4, 6])
def test_any_number_of_images_at_a_time(most, monkeypatch):
    """One, two, three or six of the six images."""
    monkeypatch.setattr(module, "IMAGES_AT_A_TIME", most)
    check_random(Shape(3, 1, 1, 3, 5, 8), images=6)


@pytest.mark.parametrize(
    ("images", "expected"), [(256, 16), (12, 12), (24, 12), (34, 2), (7, 7), (17, 1)]
)
def test_images_at_a_time_is_the_largest_divisor_that_fits(images, expected):
    assert images_at_a_time(images) == expected


def test_the_same_gradients_inside_a_loop():
    shape = Shape(3, 2, 1, 3, 4, 8)
    arrays = operands(shape)
    outside = jax.jit(all_three(convolution, shape))(*arrays)
    inside = jax.jit(
        lambda *arrays: lax.map(lambda each: all_three(convolution, shape)(*each), arrays)
    )(*(array[None] for array in arrays))
    for one, other in zip(outside, inside, strict=True):
        assert_near(other[0], one, 1e-6)


# Other platforms, and bfloat16.


def lowered(function: Callable, platform: str, groups: int = 1) -> str:
    """StableHLO of the gradient through two convolutions."""

    def loss(x, kernel):
        return jnp.sum(function(jnp.tanh(function(x, kernel, 2, groups)), kernel, 1, groups))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    shapes = (
        jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, 3 // groups, 3), jnp.float32),
    )
    return gradient.trace(*shapes).lower(lowering_platforms=(platform,)).as_text()


def operations(text: str) -> Counter:
    return Counter(
        name
        for name in re.findall(r"\w+\.\w+(?=[ \"(])", text)
        if name.startswith(("stablehlo", "chlo"))
    )


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_other_platforms_get_what_autodiff_gives(platform, groups):
    ours = operations(lowered(convolution, platform, groups))
    expected = operations(lowered(correlate, platform, groups))
    # All but the last one's output, which its gradient does not need.
    assert expected["stablehlo.convolution"] == 5
    assert not expected - ours
    assert set(ours - expected) <= CHOICE
    assert "while" not in lowered(convolution, platform, groups)


def test_the_cpu_gets_its_own_form():
    assert operations(lowered(convolution, "cpu", groups=3))["stablehlo.convolution"] == 0
    text = lowered(convolution, "cpu")
    assert operations(text)["stablehlo.while"] == 2
    assert operations(text)["stablehlo.convolution"] == 5  # two of them are kernel gradients


def in_bfloat16(shape: Shape, images: int) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(array, jnp.bfloat16) for array in operands(shape, images))


@pytest.mark.parametrize(
    "shape", [Shape(3, 1, 1, 8, 8, 8), Shape(3, 2, 8, 8, 8, 8), Shape(1, 1, 2, 8, 8, 8)], ids=str
)
def test_bfloat16(shape):
    arrays = in_bfloat16(shape, images=2)
    expected = all_three(correlate, shape)(*(array.astype(jnp.float32) for array in arrays))
    for ours, exact in zip(all_three(convolution, shape)(*arrays), expected, strict=True):
        assert ours.dtype == jnp.bfloat16
        assert_near(ours.astype(jnp.float32), exact, 1e-2)


def test_bfloat16_loses_no_more_over_many_images_than_autodiff():
    """Sums over chunks of images need more digits than bfloat16 has."""
    shape = Shape(3, 1, 1, 16, 16, 16)
    x, kernel, dy = in_bfloat16(shape, images=128)
    in_float32 = (array.astype(jnp.float32) for array in (x, kernel, dy))
    exact = all_three(correlate, shape)(*in_float32)[2]
    by_autodiff = all_three(correlate, shape)(x, kernel, dy)[2]
    ours = jax.jit(lambda *args: kernel_gradient(*args, 1))(x, kernel, dy)
    errors = [
        float(jnp.sqrt(jnp.mean(jnp.square(value.astype(jnp.float32) - exact))))
        for value in (ours, by_autodiff)
    ]
    assert errors[0] < 2 * errors[1]
