import math
import pathlib
from functools import partial

import jax
import numpy as np
import pytest
from tiny import TinyNet, images, sskd_task

from sskd_jax import views
from sskd_jax.axis import AXIS
from sskd_jax.data.sources import Split
from sskd_jax.engine import optim
from sskd_jax.engine.loop import (
    Session,
    Stage,
    check_description,
    check_finite,
    describe,
    epoch_order,
    load_stage,
    run_stage,
)
from sskd_jax.engine.step import Frozen, Task
from sskd_jax.methods import METHODS
from sskd_jax.system.console import show
from sskd_jax.system.interruption import Interruption
from sskd_jax.types import Stopped, UserError
from sskd_jax.workdir.checkpoint import Checkpoints


def stage(name: str = "student", seed: int = 0) -> Stage:
    task = sskd_task(steps_per_epoch=2)
    frozen = Frozen(jax.random.PRNGKey(0), **images(48), teacher={}, pretrained={})
    return Stage(
        name,
        {},
        task,
        frozen,
        Split(**images(48)),
        Split(**images(8)),
        "test",
        3,
        16,
        lambda step: 0.1,
        seed,
    )


def test_an_epoch_draws_without_replacement_and_leaves_the_rest_out():
    order = epoch_order(stage(), 0, 1)
    assert order.shape == (1, 2, 16) and len(np.unique(order)) == 32 and order.max() < 48


def test_devices_share_the_same_global_batches():
    one, four = (epoch_order(stage(), 1, devices) for devices in (1, 4))
    np.testing.assert_array_equal(four.swapaxes(0, 1).reshape(2, 16), one[0])


def test_order_depends_on_seed_epoch_and_kind_of_stage_but_not_on_the_method():
    base = epoch_order(stage(), 0, 1)
    for other in (
        epoch_order(stage(), 1, 1),
        epoch_order(stage(seed=1), 0, 1),
        epoch_order(stage("teacher"), 0, 1),
    ):
        assert (other != base).any()
    np.testing.assert_array_equal(epoch_order(stage("kd/student"), 0, 1), base)


def test_a_stage_of_another_kind_is_refused(tmp_path):
    describe(tmp_path, {"model": "resnet20", "steps": 10})
    describe(tmp_path, {"model": "resnet56", "steps": 10})  # what is written down stays
    with pytest.raises(
        UserError, match="was trained with model resnet20, and this run has resnet56: try"
    ):
        check_description(tmp_path, {"model": "resnet56"}, "try another")


def test_an_unfinished_stage_is_no_teacher(tmp_path):
    describe(tmp_path / "teacher", {"steps": 10})
    with pytest.raises(UserError, match="is at step 0 of 10: finish that run first"):
        load_stage(tmp_path, "teacher", {})
    with pytest.raises(UserError, match="holds no head"):
        load_stage(pathlib.Path(tmp_path), "head", {})


@pytest.mark.parametrize(
    "name,value,text",
    [
        ("test/top1", 0.12345, "12.35 %"),
        ("train/ce", 4.60517, "4.605"),
        ("train/ss", 0.012345, "0.0123"),
    ],
)
def test_figures_as_people_read_them(name, value, text):
    assert show(name, value) == text


class Book:
    """A logbook in memory."""

    def __init__(self):
        self.rows, self.saves = [], []

    def rewind(self, stage: str, step: int) -> None:
        self.rows = [row for row in self.rows if row["step"] <= step]

    def write(self, row: dict) -> None:
        self.rows.append(row)

    def saved(self, stage: str, step: int) -> None:
        self.saves.append(step)


class StopAfter(Interruption):
    """Wants to stop once it was asked so many times."""

    def __init__(self, times: int):
        super().__init__()
        self.times = times

    def due(self) -> bool:
        self.times -= 1
        self.reason = "enough" if self.times < 0 else ""
        return bool(self.reason)


def session(workdir: pathlib.Path, interruption: Interruption | None = None) -> Session:
    return Session(workdir, jax.devices()[:1], Book(), interruption or Interruption(), math.inf)


def small_stage(learning_rate: float = 0.05) -> Stage:
    """Two steps in each of three epochs, of a student that learns from labels."""
    network = TinyNet(num_classes=10, axis_name=AXIS)
    colour = dict(views=1, mean=(0.5,) * 3, std=(0.25,) * 3)
    task = Task(
        network,
        None,
        METHODS["scratch"](),
        {"ce": 1.0},
        optim.sgd(lambda step: learning_rate, momentum=0.9, weight_decay=5e-4),
        partial(views.augment, flip=True, pad=1, **colour),
        partial(views.evaluate_views, **colour),
        2,
    )
    return stage("student")._replace(task=task, learning_rate=lambda step: learning_rate)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    here = session(tmp_path_factory.mktemp("whole"))
    return run_stage(small_stage(), here), here.book.rows


@pytest.mark.parametrize("dispatches", range(6))
def test_a_stop_anywhere_changes_no_bit(dispatches, whole, tmp_path, monkeypatch):
    """Steps are dispatched one by one; before each of the six the run is stopped, saved, and called again."""
    monkeypatch.setattr("sskd_jax.engine.loop.DISPATCH_SECONDS", 0.0)
    here = session(tmp_path, StopAfter(dispatches))
    with pytest.raises(
        Stopped,
        match=f"enough: student is saved at step {dispatches} of 6; the same command goes on",
    ):
        run_stage(small_stage(), here)
    jax.tree.map(
        np.testing.assert_array_equal,
        run_stage(small_stage(), here._replace(interruption=Interruption())),
        whole[0],
    )
    assert here.book.rows == whole[1] and here.book.saves == sorted([2, 4, 6, dispatches])


def test_what_is_not_finite_stops_the_stage_and_leaves_the_last_good_checkpoint(tmp_path):
    with pytest.raises(
        UserError,
        match=r"student diverged: not finite in step \d: .*gradient. The checkpoints before",
    ):
        run_stage(small_stage(learning_rate=1e30), session(tmp_path))
    with Checkpoints(tmp_path / "student") as checkpoints:
        newest = checkpoints.newest()
    assert newest is None or all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(newest["params"])
    )


def test_the_first_step_that_spoiled_something_is_named():
    spoiled = {
        name: np.int32([step, step])
        for name, step in {"ce": 0, "kd": 7, "loss": 7, "gradient": 9}.items()
    }
    with pytest.raises(UserError, match="student diverged: not finite in step 7: kd, loss. The"):
        check_finite(stage(), jax.tree.map(lambda leaf: jax.device_put(leaf), spoiled))
