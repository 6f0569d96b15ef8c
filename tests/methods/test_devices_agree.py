"""Every stage's real loss computes the same of a batch, however many devices share it."""

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from pairs import STAGES, Beginning, begin, beginning, network

from configs.methods import METHODS as ENTRIES
from sskd_jax.axis import AXIS
from sskd_jax.engine.devices import replicated, stacked, unreplicate
from sskd_jax.engine.evaluate import batch_scores
from sskd_jax.engine.step import train_step
from sskd_jax.engine.task import Frozen, TrainState
from sskd_jax.methods import METHODS
from sskd_jax.methods.common import unscored
from sskd_jax.methods.sp import similarity_loss
from sskd_jax.types import Batch, Losses, Nets, Stage, frozen, learns
from sskd_jax.views import once

DEVICES = (1, 2, 8)
INDEX = np.random.default_rng(0).permutation(48)[:16].astype(np.int32)
MASK = np.arange(16) < 13
# As in a run; the tests' other programs are compiled in one part, and round otherwise.
IN_PARTS = {"xla_cpu_parallel_codegen_split_count": 32}
BIAS, KERNEL = "['conv']['bias']", "['conv']['kernel']"
EPOCH = 3  # in which no term that rises with the epochs is 0 any more


@pytest.fixture(autouse=True)
def few_programs() -> Iterator[None]:
    """Forgets a test's programs when it is done; those of all would map too much memory."""
    yield
    jax.clear_caches()
    gc.collect()


def step_and_scores(start: Beginning) -> Iterator[tuple[TrainState, Any]]:
    """The state after one step, and the sums of a batch's scores, on each number of devices.

    Three of the images do not count in the scores.
    """
    task, frozen, state = start
    state = state._replace(step=np.int32(EPOCH * task.steps_per_epoch))

    def program(state: TrainState, frozen: Frozen, index: jax.Array, mask: jax.Array) -> Any:
        scores = batch_scores(task, state.variables, frozen, index, mask)
        return train_step(task, state, frozen, index), scores

    def compiled(devices: int) -> tuple[Any, Any]:
        chosen = jax.devices()[:devices]
        shares = [array.reshape(devices, -1) for array in (INDEX, MASK)]
        args = *replicated((state, frozen), chosen), *jax.device_put(shares, stacked(chosen))
        lowered = jax.pmap(program, AXIS, devices=chosen).lower(*args)
        return lowered.compile(compiler_options=IN_PARTS), args

    # Compilation is most of the time, and lets go of Python's lock. (Programs that share devices
    # must not run side by side.)
    with ThreadPoolExecutor(2) as pool:
        for executable, (own, *args) in pool.map(compiled, DEVICES):
            if task.stage.memory:  # so that the step finds something there
                stepped, _ = executable(own, *args)
                own = own._replace(memory=stepped.memory)
            yield unreplicate(executable(own, *args))


def check_devices_agree(start: Beginning) -> None:
    """Terms, figures, memory, statistics, parameters and scores are those of one device.

    So are the gradients, which are what the momentum of the optimizer holds after one step, but
    for the weights' decay.
    """
    (alone, scores_alone), *others = step_and_scores(start)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(alone))
    for state, scores in others:
        for name, field in alone._asdict().items():
            is_of_nets = name in ("params", "batch_stats", "opt_state")
            assert_close(name, getattr(state, name), field, 1e-6 if is_of_nets else 0)
        assert_close("scores", scores, scores_alone)


def assert_close(name: str, actual: Any, expected: Any, of_all: float = 0) -> None:
    """Compares leaf by leaf, as closely as the largest number of each allows.

    `of_all` is what the largest number of the whole tree allows beside: some gradients are 0, so
    only rounding errors are left of them. A convolution's bias before a batch norm is such a
    case. Its gradient is a sum over all pixels, as is that of the kernel beside it, whose largest
    number allows as much again.
    """
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    sizes = {jax.tree_util.keystr(path): np.abs(leaf).max(initial=0) for path, leaf in leaves}
    largest = max(sizes.values(), default=0)

    def check(path: Any, actual: np.ndarray, expected: np.ndarray) -> None:
        place = jax.tree_util.keystr(path)
        atol = 1e-4 * sizes[place] + of_all * largest
        if place.endswith(BIAS):
            atol += of_all * sizes[place.replace(BIAS, KERNEL)]
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=atol, err_msg=name + place)

    jax.tree_util.tree_map_with_path(check, actual, expected)


@pytest.mark.parametrize(("method", "stage"), STAGES)
def test_same_numbers_on_any_number_of_devices(method, stage):
    check_devices_agree(beginning(method, stage))


def test_every_device_labels_the_exemplars_of_its_own_share():
    """The one auxiliary task whose labels depend on which images a device has."""
    numbers = ENTRIES["pretext"].numbers | {"task": "exemplar", "exemplars": 1000}
    head = METHODS["pretext"](**numbers)["head"]
    check_devices_agree(begin(head, partial(network, "pretext")))


def test_a_forgotten_everywhere_is_noticed():
    """Images are compared with those of their own share alone."""

    def loss(nets: Nets, batch: Batch) -> Losses:
        pixels = batch.see(once)
        student, teacher = nets["student"](pixels), nets["teacher"](pixels)
        return Losses({"sp": similarity_loss(student.maps[-1], teacher.maps[-1])})

    nets = {"student": learns("student"), "teacher": frozen("teacher")}
    start = begin(Stage(("sp",), nets, loss, unscored), partial(network, "sp"))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_devices_agree(start)
