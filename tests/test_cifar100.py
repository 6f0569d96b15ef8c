"""PyTorch weights on the real CIFAR-100 test set, all 10,000 images of it."""

import jax
import pytest

from configs import cifar
from sskd_jax.data import sources
from sskd_jax.data.sources import Split
from sskd_jax.engine.loop import Session
from sskd_jax.exchange import torch_bridge
from sskd_jax.system.interruption import Interruption
from sskd_jax.train import Run, classify
from sskd_jax.workdir.logbook import NoLogbook


@pytest.fixture(scope="module")
def test_split(official_cifar100) -> Split:
    return sources.load("cifar100", str(official_cifar100)).test


@pytest.mark.slow
@pytest.mark.parametrize("model,top1", [("resnet20", 0.6883), ("resnet56", 0.7263)])
def test_top1_of_trained_weights(model, top1, shared, test_split, tmp_path):
    weights, num_classes = torch_bridge.load_pth(
        shared / "weights" / f"cifar100_{model}.pth", model
    )
    config = cifar.get_config()
    config.data.mean, config.data.std = (
        (0.5070, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2761),
    )  # as these were trained
    session = Session(tmp_path, jax.devices()[:1], NoLogbook(), Interruption(), config.save_seconds)
    this = Run(config, session, test_split, test_split, test_split, num_classes)
    scores = classify(this, model, weights)
    assert scores["top1"] == pytest.approx(top1, abs=5e-4)
    print(model, scores)
