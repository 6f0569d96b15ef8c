"""Linear probes: what a layer on frozen features finds, and where that is kept."""

import dataclasses

import numpy as np
import pytest

from experiments import page, probe, record, records, report
from sskd_jax.data.sources import Dataset, Split
from tests.experiments.finished import finished

RNG = np.random.default_rng(0)


@dataclasses.dataclass
class Brightness:
    """A network whose only feature is the mean of an image of a size."""

    sizes: tuple[int, int]

    def features(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8 and images.shape[1] == self.sizes[0]
        return images.mean((1, 2, 3))[:, None]


def bright_and_dark(count: int, size: int = 8) -> Split:
    """Images of two classes, of which one is bright."""
    label = RNG.integers(0, 2, count).astype(np.int32)
    low = np.where(label, 150, 0)[:, None, None, None]
    return Split((low + RNG.integers(0, 100, (count, size, size, 3))).astype(np.uint8), label)


@pytest.mark.parametrize("size", [8, 4])
def test_a_layer_finds_what_is_in_the_features(size):
    data = Dataset(bright_and_dark(1100), bright_and_dark(60), 2)
    assert probe.probe(Brightness((size, size)), data) == 1.0
    shuffled = data.test.relabel(RNG.permutation(data.test.label))
    assert probe.probe(Brightness((size, size)), data._replace(test=shuffled)) < 0.8


def test_features_are_in_the_order_of_the_images():
    split = bright_and_dark(probe.BATCH + 7)
    found, label = probe.features(Brightness((8, 8)), split)
    np.testing.assert_array_equal(label, split.label)
    np.testing.assert_allclose(found[:, 0], split.image.mean((1, 2, 3)))


def test_probes_are_kept_and_shown(tmp_path):
    workdir = finished(tmp_path / "kd-0", method="kd", student__epochs=240, teacher__epochs=240)
    probe.keep(workdir, "digits", {"student": 0.5})
    probe.keep(workdir, "cifar10", {"student": 0.25})
    results = tmp_path / "results"
    record.keep_runs([workdir], results)
    found = page.markdown(report.probes(report.by_experiment(records.recorded(results))))
    assert "| digits | 50.00 (1) |" in found and "| cifar10 | 25.00 (1) |" in found
    assert "Not run." in page.markdown(report.probes({}))
