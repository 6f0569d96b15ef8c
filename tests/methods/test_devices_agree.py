"""Terms and gradients of every method are those of the global batch, however many devices share it."""

from functools import partial

import jax
import numpy as np
import pytest
from jax import lax
from quick import QUICK

from configs import common
from sskd_jax.axis import AXIS
from sskd_jax.engine.devices import first, replicated, run_once, stacked
from sskd_jax.engine.step import gather, gather_outputs
from sskd_jax.methods import METHODS
from sskd_jax.types import Method, Outputs

IMAGES, K = 16, 4
LABEL = np.random.default_rng(0).integers(0, K, IMAGES)


def outputs(views: int, width: int) -> Outputs:
    rng = np.random.default_rng(width)
    maps = tuple(
        rng.standard_normal((IMAGES * views, size, size, 6)).astype(np.float32)
        for size in (4, 4, 2)
    )
    return Outputs(
        *(rng.standard_normal((IMAGES * views, n)).astype(np.float32) for n in (K, width)),
        maps,
        maps,
    )


def beginning(method: Method) -> tuple:
    """(outputs of student and teacher, (parameters, what the method's own stages learned, memory, key))."""
    student = outputs(method.views, 6)
    teacher = outputs(method.views, 9) if method.teacher else None

    def start(key: jax.Array) -> tuple:
        pretrained = {
            name: stage.init(key, student, teacher) for name, stage in method.pretrain.items()
        }
        return (
            method.init(key, student, teacher),
            pretrained,
            method.memory(key, student, teacher, LABEL),
            key,
        )

    return (student, teacher), run_once(start, jax.random.PRNGKey(0))


def global_numbers(method: Method, networks: tuple, start: tuple, devices: int) -> tuple:
    """(terms, gradient by the method's parameters, gradient by the student's outputs) of the sum of all terms."""

    def program(networks: tuple, label: jax.Array, start: tuple) -> tuple:
        params, pretrained, memory, key = start
        student, teacher = networks

        def objective(params: dict, student: Outputs) -> tuple:
            student, everywhere = (
                gather_outputs(outputs, method.gathered) for outputs in (student, teacher)
            )
            batch = {
                "label": gather(label),
                "index": np.arange(IMAGES),
                "epoch": np.int32(3),
                "key": key,
                "memory": memory,
            }
            terms, _ = method.loss(params, pretrained, student, everywhere, batch)
            return sum(terms.values()), terms

        gradients, terms = jax.grad(objective, (0, 1), has_aux=True)(params, student)
        return lax.pmean((terms, gradients[0]), AXIS), gather(gradients[1])

    chosen = jax.devices()[:devices]
    shards = jax.tree.map(
        lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), (networks, LABEL)
    )
    args = *jax.device_put(shards, stacked(chosen)), replicated(start, chosen)
    found = jax.pmap(program, AXIS, devices=chosen).lower(*args).compile(QUICK)(*args)
    (terms, by_params), by_outputs = first(found)
    return terms, by_params, jax.tree.map(lambda leaf: leaf / devices, by_outputs)


STAGES = {name: METHODS[name](**common.METHOD_NUMBERS[name]) for name in METHODS}
STAGES |= {
    f"{name}/{own}": stage
    for name, method in STAGES.items()
    for own, stage in method.pretrain.items()
}


@pytest.mark.parametrize("name", STAGES)
def test_same_numbers_on_any_number_of_devices(name):
    method = STAGES[name]
    inputs = beginning(method)
    alone = global_numbers(method, *inputs, 1)
    close = partial(
        jax.tree.map,
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max()),
    )
    for devices in (2, 8):
        close(global_numbers(method, *inputs, devices), alone)
