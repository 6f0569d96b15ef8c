import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from array_record.python import array_record_data_source  # noqa: F401  flagsaver would forget flags defined later
from pictures import FRAMING, dataset
from scipy.stats import ks_2samp

from configs import cifar, imagenet
from experiments.bench import input as loaders
from sskd_jax.data import jpeg
from sskd_jax.types import UserError


@pytest.fixture(autouse=True)
def few():
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(batches=2, batch=4, rounds=1):
        yield


def test_a_row_for_every_loader(tmp_path):
    config = imagenet.get_config("dataset=flowers,batch=8")
    config.data.update(FRAMING, data_dir=str(dataset(tmp_path)))
    rows = loaders.measure(config)
    assert [row["loader"] for row in rows] == ["ours", "PIL, uint8", "PIL, normalised"]
    assert rows[0]["ratio"] == 1 and all(
        row["per_core"] > 0 and row["images_per_s"] > 0 for row in rows
    )


def test_resident_images_are_not_timed(monkeypatch):
    config = cifar.get_config()
    monkeypatch.setattr(loaders.train, "load_data", lambda config: (None, object(), None))
    with pytest.raises(
        UserError, match="cifar100 is not streamed: give --config=configs/imagenet.py"
    ):
        loaders.measure(config)


def test_pils_crops_are_as_ours():
    framing = jpeg.Framing(**FRAMING)
    theirs = np.asarray([loaders.pil_box(300, 200, framing) for _ in range(500)])
    ours = np.stack(
        [
            jpeg.random_box(np.float32(200), np.float32(300), np.asarray([0, i]), framing)
            for i in range(500)
        ]
    )
    areas = (theirs[:, 2] - theirs[:, 0]) * (theirs[:, 3] - theirs[:, 1]), ours[:, 2] * ours[:, 3]
    assert ks_2samp(*areas).pvalue > 1e-3


def test_normalised_floats_are_pytorchs():
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    red = (image[..., 0] / 255 - 0.485) / 0.229
    np.testing.assert_allclose(loaders.normalised(image)[0], red, rtol=1e-5)
