import pathlib

import jax
import numpy as np
import pytest
from tiny import images, sskd_task

from sskd_jax.console import show
from sskd_jax.data.sources import Split
from sskd_jax.stage import Stage, check_description, describe, epoch_order, load_stage
from sskd_jax.step import Frozen
from sskd_jax.types import UserError


def stage(name: str = "student", seed: int = 0) -> Stage:
    task = sskd_task(steps_per_epoch=2)
    frozen = Frozen(jax.random.PRNGKey(0), **images(48), teacher={}, pretrained={})
    return Stage(name, {}, task, frozen, Split(**images(8)), "test", 3, 16, lambda step: 0.1, seed)


def test_an_epoch_draws_without_replacement_and_leaves_the_rest_out():
    order = epoch_order(stage(), 0, 1)
    assert order.shape == (1, 2, 16) and len(np.unique(order)) == 32 and order.max() < 48


def test_devices_share_the_same_global_batches():
    one, four = (epoch_order(stage(), 1, devices) for devices in (1, 4))
    np.testing.assert_array_equal(four.swapaxes(0, 1).reshape(2, 16), one[0])


def test_order_depends_on_seed_epoch_and_kind_of_stage_but_not_on_the_method():
    base = epoch_order(stage(), 0, 1)
    for other in (epoch_order(stage(), 1, 1), epoch_order(stage(seed=1), 0, 1), epoch_order(stage("teacher"), 0, 1)):
        assert (other != base).any()
    np.testing.assert_array_equal(epoch_order(stage("kd/student"), 0, 1), base)


def test_a_stage_of_another_kind_is_refused(tmp_path):
    describe(tmp_path, {"model": "resnet20", "steps": 10})
    describe(tmp_path, {"model": "resnet56", "steps": 10})  # what is written down stays
    with pytest.raises(UserError, match="was trained with model resnet20, and this run has resnet56: try"):
        check_description(tmp_path, {"model": "resnet56"}, "try another")


def test_an_unfinished_stage_is_no_teacher(tmp_path):
    describe(tmp_path / "teacher", {"steps": 10})
    with pytest.raises(UserError, match="is at step 0 of 10: finish that run first"):
        load_stage(tmp_path, "teacher", {})
    with pytest.raises(UserError, match="holds no head"):
        load_stage(pathlib.Path(tmp_path), "head", {})


@pytest.mark.parametrize("name,value,text", [("test/top1", 0.12345, "12.35 %"), ("train/ce", 4.60517, "4.605"),
                                             ("train/ss", 0.012345, "0.0123")])
def test_figures_as_people_read_them(name, value, text):
    assert show(name, value) == text
