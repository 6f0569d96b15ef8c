from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from array_record.python import array_record_data_source  # noqa: F401
from pictures import FRAMING, dataset
from scipy.stats import ks_2samp

from configs import cifar, imagenet
from experiments.bench import input as loaders
from sskd_jax.data import jpeg
from sskd_jax.data.stream import Framing
from sskd_jax.types import UserError


@pytest.fixture(autouse=True)
def few():
    """Little is timed. (flagsaver would forget flags that array_record defines once it is on.)"""
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(batches=2, batch=4, rounds=1):
        yield


def test_a_row_for_every_loader(tmp_path):
    config = imagenet.get_config("dataset=flowers,batch=8")
    config.data.update(FRAMING, data_dir=str(dataset(tmp_path)))
    rows = loaders.measure(config)
    assert [row["loader"] for row in rows] == ["ours", "PIL, uint8", "PIL, normalised"]
    assert rows[0]["ratio"] == 1
    assert all(row["per_core"] > 0 and row["images_per_s"] > 0 for row in rows)


def test_resident_images_are_not_timed(monkeypatch):
    config = cifar.get_config()
    run = SimpleNamespace(train=object())
    monkeypatch.setattr(loaders.plan, "load", lambda config, devices: run)
    text = "cifar100 is not streamed: give --config=configs/imagenet.py"
    with pytest.raises(UserError, match=text):
        loaders.measure(config)


def test_pils_crops_are_as_ours():
    framing = Framing(**FRAMING)
    theirs = np.asarray([loaders.pil_box(300, 200, framing) for _ in range(500)])
    sides = np.float32(200), np.float32(300)
    cut = framing.scale, framing.ratio
    ours = np.stack([jpeg.random_box(*sides, np.asarray([0, i]), *cut) for i in range(500)])
    areas = (theirs[:, 2] - theirs[:, 0]) * (theirs[:, 3] - theirs[:, 1]), ours[:, 2] * ours[:, 3]
    assert ks_2samp(*areas).pvalue > 1e-3


def test_normalised_floats_are_pytorchs():
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    red = (image[..., 0] / 255 - 0.485) / 0.229
    np.testing.assert_allclose(loaders.normalised(image)[0], red, rtol=1e-5)
