"""Terms and gradients of every method are those of the global batch, however many devices share it."""
from functools import partial

import jax
import numpy as np
import pytest
from jax import lax

from configs import common
from sskd_jax.devices import AXIS
from sskd_jax.methods import METHODS
from sskd_jax.step import gather, gather_outputs
from sskd_jax.types import Method, Outputs

IMAGES, K = 16, 4
LABEL = np.random.default_rng(0).integers(0, K, IMAGES)


def outputs(views: int, width: int) -> Outputs:
    rng = np.random.default_rng(width)
    maps = tuple(rng.standard_normal((IMAGES * views, size, size, 6)).astype(np.float32) for size in (4, 4, 2))
    return Outputs(*(rng.standard_normal((IMAGES * views, n)).astype(np.float32) for n in (K, width)), maps, maps)


def global_numbers(method: Method, devices: int) -> tuple:
    """(terms, gradient by the method's parameters, gradient by the student's outputs) of the sum of all terms."""
    student = outputs(method.views, 6)
    teacher = outputs(method.views, 9) if method.teacher else None
    params = method.init(jax.random.key(0), student, teacher)
    pretrained = {name: stage.init(jax.random.key(1), student, teacher) for name, stage in method.pretrain.items()}
    memory = method.memory(jax.random.key(2), student, teacher, LABEL)

    def program(student: Outputs, teacher: Outputs | None, label: jax.Array) -> tuple:
        def objective(params: dict, student: Outputs) -> tuple:
            student, everywhere = (gather_outputs(outputs, method.gathered) for outputs in (student, teacher))
            batch = {"label": gather(label), "index": np.arange(IMAGES), "epoch": np.int32(3),
                     "key": np.array([0, 7], np.uint32), "memory": memory}
            terms, _ = method.loss(params, pretrained, student, everywhere, batch)
            return sum(terms.values()), terms

        gradients, terms = jax.grad(objective, (0, 1), has_aux=True)(params, student)
        return lax.pmean((terms, gradients[0]), AXIS), gather(gradients[1])

    shards = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), (student, teacher, LABEL))
    found = jax.pmap(program, AXIS, devices=jax.devices()[:devices])(*shards)
    (terms, by_params), by_outputs = jax.tree.map(lambda leaf: np.asarray(leaf[0]), found)
    return terms, by_params, jax.tree.map(lambda leaf: leaf / devices, by_outputs)


STAGES = {name: METHODS[name](**common.METHOD_NUMBERS[name]) for name in METHODS}
STAGES |= {f"{name}/{own}": stage for name, method in STAGES.items() for own, stage in method.pretrain.items()}


@pytest.mark.parametrize("name", STAGES)
def test_same_numbers_on_any_number_of_devices(name):
    method = STAGES[name]
    alone = global_numbers(method, 1)
    close = partial(jax.tree.map, lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max()))
    for devices in (2, 8):
        close(global_numbers(method, devices), alone)
