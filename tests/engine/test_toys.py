"""The one step holds all that methods need, on any number of devices.

Each is planned, traced and trained as a method is, with stops in the middle.
"""

import itertools
import math
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import images
from toys import CLASSES, TOYS, Small

from configs import quickstart
from sskd_jax import plan, train
from sskd_jax.data import sources
from sskd_jax.data.sources import Dataset, Split
from sskd_jax.engine.loop import Session
from sskd_jax.models import MODELS
from sskd_jax.settings import Recipe
from sskd_jax.system.interruption import Interruption
from sskd_jax.types import Stopped
from sskd_jax.workdir.checkpoint import Checkpoints
from sskd_jax.workdir.logbook import NoLogbook


class StopsOften(Interruption):
    """A stop is due when so many dispatches have been run."""

    def __init__(self, dispatches: int):
        super().__init__()
        self.asked, self.dispatches = itertools.count(), dispatches

    def due(self) -> bool:
        self.reason = "a test"
        return next(self.asked) >= self.dispatches


@pytest.fixture(scope="module", autouse=True)
def toy_data_and_network() -> Iterator[None]:
    train_split = Split(**images(44, classes=CLASSES))
    test_split = Split(**images(20, classes=CLASSES, seed=1))
    dataset = Dataset(train_split, test_split, CLASSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sources.LOADERS, "toy", lambda data_dir: dataset)
        patch.setitem(MODELS, "small", Small)
        yield


@pytest.fixture(scope="module")
def wholes(toy_data_and_network, tmp_path_factory) -> dict:
    """By toy, the last checkpoint of every stage of a run without stops on one device."""
    states = {}
    for name in TOYS:
        workdir = tmp_path_factory.mktemp(name)
        run(name, 1, workdir, Interruption())
        states[name] = newest(workdir, name)
    return states


def toy_plan(name: str, devices: int) -> tuple[plan.Run, list]:
    """The run and the jobs of a toy: two epochs of two steps each."""
    method, config = TOYS[name](), quickstart.get_config()
    config.data.name = "toy"
    config.student.model = "small"
    section = config.student.to_dict() | {"epochs": 2, "batch_size": 16}
    section["images"] = {"share": 1.0, "noise": 0.0, "imbalance": 1.0}
    if name == "coca":  # an epoch sees the images of one of two tasks
        section["batch_size"] = 8
    for kind in method:
        config[kind] = ConfigDict(section)
    *_, last = method.values()
    this = plan.load(config, jax.devices()[:devices])
    return this, plan.plan(this, [Recipe("", name, method, dict.fromkeys(last.terms, 1.0))])


def run(name: str, devices: int, workdir, interruption: Interruption) -> list:
    """(job, trained) of every stage."""
    this, jobs = toy_plan(name, devices)
    chosen = jax.devices()[:devices]
    session = Session(workdir, chosen, NoLogbook(), interruption, math.inf)
    return train.train_all(jobs, session)


def newest(workdir, name: str) -> dict:
    """The last checkpoint of every stage, as nested dicts."""
    states = {}
    for kind in TOYS[name]():
        with Checkpoints(workdir / kind) as checkpoints:
            states[kind] = checkpoints.newest()
    return states


@pytest.mark.slow
@pytest.mark.parametrize("name", TOYS)
def test_a_toy_trains_alike_on_any_number_of_devices_and_through_stops(name, wholes, tmp_path):
    whole, stops = wholes[name], 0
    for _ in range(20):
        try:
            run(name, 1, tmp_path / "stopped", StopsOften(len(whole)))
            break
        except Stopped:
            stops += 1
    assert stops >= 2
    jax.tree.map(np.testing.assert_array_equal, newest(tmp_path / "stopped", name), whole)

    for devices in (2, 8):
        run(name, devices, tmp_path / str(devices), Interruption())
        found = newest(tmp_path / str(devices), name)
        for kind in whole:
            # The balance of nearly equal numbers may fall otherwise where sums are rounded.
            jax.tree.map(close, found[kind], whole[kind])


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_follower_lags_behind_its_leader(wholes):
    params = wholes["ssd_lt"]["features"]["params"]
    kernels = [np.ravel(params[net]["conv"]["kernel"]) for net in ("student", "key")]
    distance = np.abs(kernels[0] - kernels[1]).max()
    assert 0 < distance < np.abs(kernels[0]).max()


def test_an_order_that_is_no_permutation_is_followed():
    _, (_, job, _) = toy_plan("ssd_lt", 1)
    stage, rng = job.task.stage, np.random.default_rng(0)
    order = stage.order(rng, job.images, 0)
    counts = np.bincount(job.images.label[order], minlength=CLASSES)
    assert len(order) == job.images.size and counts.max() - counts.min() <= 2
    assert len(np.unique(order)) < job.images.size
