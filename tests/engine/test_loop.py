"""One stage from its first step to its last: orders, stops anywhere, and what is not finite."""

import functools
import math
import pathlib
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny import planned, small_config, tiny_network

from sskd_jax.engine import loop
from sskd_jax.engine.loop import (
    Job,
    Session,
    check_alike,
    check_finite,
    compared_by,
    epoch_feed,
    epoch_order,
    run_stage,
)
from sskd_jax.system.console import show
from sskd_jax.system.interruption import Interruption
from sskd_jax.types import Stopped, UserError
from sskd_jax.workdir.checkpoint import Checkpoints


@pytest.fixture(scope="module", autouse=True)
def tiny_networks():
    with tiny_network():
        yield


@functools.cache
def job(**changes: float) -> Job:
    """Two steps of 16 images in each of three epochs, of a student that learns from labels."""
    made = job_of(**changes)
    assert made.images.size == 40 and made.task.steps_per_epoch == 2
    return made


@functools.cache
def diverging() -> Job:
    """The same in one epoch of many steps, with a rate at which it diverges."""
    return job_of(epochs=1, learning_rate=1e12, **{"images.share": 0.1})


def job_of(**changes: float) -> Job:
    student = {"epochs": 3, "batch_size": 16, "images.share": 0.03, "milestones": ()} | changes
    config = small_config(**{f"student.{key}": value for key, value in student.items()})
    config.methods = ("scratch",)
    (made,) = planned(config)
    return made._replace(name="student")


def test_an_epoch_draws_without_replacement_and_leaves_the_rest_out():
    order = epoch_order(job(), 0, 1)
    assert order.shape == (1, 2, 16) and len(np.unique(order)) == 32 and order.max() < 40


def test_devices_share_the_same_global_batches():
    one, four = (epoch_order(job(), 1, devices) for devices in (1, 4))
    np.testing.assert_array_equal(four.swapaxes(0, 1).reshape(2, 16), one[0])


def test_order_depends_on_seed_epoch_and_kind_of_stage_but_not_on_the_method():
    base = epoch_order(job(), 0, 1)
    for other in (
        epoch_order(job(), 1, 1),
        epoch_order(job()._replace(seed=1), 0, 1),
        epoch_order(job()._replace(kind="teacher"), 0, 1),
    ):
        assert (other != base).any()
    np.testing.assert_array_equal(epoch_order(job()._replace(name="kd/student"), 0, 1), base)


def test_crops_on_the_host_depend_on_seed_epoch_and_place():
    seeds, places = [], []

    class Recorder:
        size, label = job().images.size, job().images.label

        def epoch(self, order, place, seed, start):
            seeds.append(seed)
            places.append(place)

    own = job()._replace(images=Recorder())
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        epoch_feed(own._replace(seed=seed), epoch, 0, jax.devices()[:1])
    assert seeds[0] == seeds[1] and len(set(seeds)) == 3
    assert all(place.ravel().tolist() == list(range(32)) for place in places)


def with_order(order) -> Job:
    task = job().task
    return job()._replace(task=task._replace(stage=task.stage._replace(order=order)))


def test_a_stage_may_order_its_epochs_as_it_likes():
    """Class after class here; it is told the images with their labels, and the epoch."""

    def order(rng, split, epoch):
        return np.roll(np.argsort(split.label, kind="stable"), -epoch)

    for epoch in (0, 1):
        visited = epoch_order(with_order(order), epoch, 2).swapaxes(0, 1).ravel()
        expected = np.roll(np.argsort(job().images.label, kind="stable"), -epoch)[:32]
        np.testing.assert_array_equal(visited, expected)


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

    def tell_missing(self, stage: str, step: int, epochs: int) -> None:
        assert sum(row["step"] <= step for row in self.rows) == epochs

    def is_best(self, stage: str, step: int) -> bool:
        return True


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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run without a stop ends with, and its rows."""
    here = session(tmp_path_factory.mktemp("whole"))
    return run_stage(job(), here), here.book.rows


@pytest.mark.parametrize("dispatches", range(6))
def test_a_stop_anywhere_changes_no_bit(dispatches, whole, tmp_path, monkeypatch):
    """Steps are dispatched one by one.

    Before each of the six the run is stopped, saved, and called again.
    """
    monkeypatch.setattr("sskd_jax.engine.loop.DISPATCH_SECONDS", 0.0)
    here = session(tmp_path, StopAfter(dispatches))
    message = f"enough: student stands at step {dispatches} of 6; the same command goes on"
    with pytest.raises(Stopped, match=message):
        run_stage(job(), here)
    again = run_stage(job(), here._replace(interruption=Interruption()))
    for ours, theirs in ((again.last, whole[0].last), (again.best, whole[0].best)):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert again.best_epoch == whole[0].best_epoch
    stop = [dispatches] if dispatches else []  # at step 0 there is nothing to save
    assert here.book.rows == whole[1] and here.book.saves == sorted([2, 4, 6, *stop])


def test_rows_name_what_was_computed(whole):
    assert [(row["epoch"], row["step"]) for row in whole[1]] == [(1, 2), (2, 4), (3, 6)]
    figures = ["train/loss", "train/ce", "train/accuracy", "test/top1", "test/top5", "test/loss"]
    assert set(whole[1][0]) == {"stage", "epoch", "step", "learning_rate", *figures}
    # The first score of held-out images is what epochs are compared by, so it comes first.
    assert [name for name in whole[1][0] if name.startswith("test/")] == figures[3:]
    for row in whole[1]:  # means over the steps
        assert 0 <= row["train/accuracy"] <= 1 and row["train/loss"] == row["train/ce"]


def test_the_best_epoch_is_that_of_the_first_score(whole):
    trained, rows = whole
    scores = [row["test/top1"] for row in rows]
    assert scores[trained.best_epoch - 1] == max(scores)


def test_another_epoch_does_not_stand_for_the_best_one_whose_checkpoint_is_lost(
    whole, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(Book, "is_best", lambda book, stage, step: False)
    trained = run_stage(job(), session(tmp_path))
    assert trained.best is None and trained.best_epoch is None
    jax.tree.map(np.testing.assert_array_equal, trained.last, whole[0].last)
    assert "student  its best checkpoint is lost: the results name no" in capsys.readouterr().out


def test_what_is_not_finite_stops_the_stage_and_leaves_the_last_good_checkpoint(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("sskd_jax.engine.loop.DISPATCH_SECONDS", 0.0)
    message = r"student diverged: not finite in step \d: .*gradient. The checkpoints before"
    with pytest.raises(UserError, match=message):  # with a checkpoint after every step
        run_stage(diverging(), session(tmp_path)._replace(save_seconds=0.0))
    with Checkpoints(tmp_path / "student") as checkpoints:
        newest = checkpoints.newest()
    assert 0 < newest["step"] < diverging().task.steps_per_epoch
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(newest["params"]))
    assert not any(newest["first_nonfinite"].values())


def test_the_first_step_in_which_something_was_not_finite_is_named():
    steps = {"ce": 0, "kd": 7, "loss": 7, "gradient": 9}
    first = {name: jax.device_put(np.int32([step, step])) for name, step in steps.items()}
    with pytest.raises(UserError, match="student diverged: not finite in step 7: kd, loss. The"):
        check_finite(job(), first)


@pytest.mark.parametrize("name, cure", [("memory", "everywhere"), ("key.batch_stats", "BatchNorm")])
def test_what_devices_must_hold_alike_is_named(name, cure):
    unlike = {"student.batch_stats": False, "memory": False, "key.batch_stats": False, name: True}
    flags = {key: jax.device_put(np.array([value, value])) for key, value in unlike.items()}
    with pytest.raises(UserError, match=rf"^student: devices .* numbers in {name}, .*\.{cure}"):
        check_alike(job(), flags)
    check_alike(job(), {key: flag for key, flag in flags.items() if key != name})


def test_epochs_compare_by_the_first_score_or_else_by_the_loss():
    assert compared_by({"test/top1": 0.5, "test/loss": 9.0}, {"train/loss": 2.0}) == 0.5
    assert compared_by({}, {"train/loss": 2.0}) == -2.0


def test_what_processes_wait_for_each_other_counts_as_time_of_a_dispatch(monkeypatch):
    """Else a dispatch would seem to take no time, and grow to a whole epoch."""
    dispatcher = object.__new__(loop.Dispatcher)
    dispatcher.steps, dispatcher.program = 1, lambda state, *_: (state, None)
    dispatcher.job = SimpleNamespace(task=SimpleNamespace(steps_per_epoch=64))
    dispatcher.wait = lambda pending: pending.pop()[1] if pending else 0
    dispatcher.stop_is_due = lambda: time.sleep(0.02)
    monkeypatch.setattr(loop, "DISPATCH_SECONDS", 0.02)
    dispatches = list(dispatcher.run(None, None, lambda *steps: [(None, *steps)], 0))
    assert len(dispatches) > 30
