"""PyTorch weights on the real CIFAR-100 test set, all 10,000 images of it."""

import math

import jax
import pytest

from configs import cifar
from sskd_jax import plan, train
from sskd_jax.engine.loop import Session
from sskd_jax.methods.common import TEACHER
from sskd_jax.settings import Recipe
from sskd_jax.system.interruption import Interruption
from sskd_jax.workdir.logbook import NoLogbook


@pytest.mark.slow
@pytest.mark.parametrize("model,top1", [("resnet20", 0.6883), ("resnet56", 0.7263)])
def test_top1_of_trained_weights(model, top1, shared, official_cifar100, tmp_path, optimised):
    """They are given as a teacher's, in a run of a method that has no other stage."""
    config = cifar.get_config(f"teacher={model}")
    weights = shared / "weights" / f"cifar100_{model}.pth"
    config.teacher.update(checkpoint=str(weights), batch_size=128)
    # As these were trained.
    mean, std = (0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)
    config.data.update(data_dir=str(official_cifar100), mean=mean, std=std)

    devices = jax.devices()[:1]
    loaded = plan.load(config, devices)
    jobs = plan.plan(loaded, [Recipe("", "teacher", {"teacher": TEACHER}, {"ce": 1.0})])
    session = Session(tmp_path, devices, NoLogbook(), Interruption(), math.inf)
    (row,) = train.results(train.train_all(jobs, session), loaded.data.test, session)
    assert loaded.data.test.size == 10_000
    assert row["top1"] == pytest.approx(top1, abs=5e-4)
    print(row)
