"""Linear probes: what a layer on frozen features finds, and where that is kept."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from students import resnet8_variables, student

from experiments import page, probe, record, records, report
from sskd_jax import load
from sskd_jax.data import sources
from sskd_jax.data.sources import Dataset, Split
from sskd_jax.system.paths import locate
from sskd_jax.workdir.files import read_json
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
    found = page.markdown(report.probes(records.by_experiment(records.recorded(results))))
    assert "| digits | 50.00 (1) |" in found and "| cifar10 | 25.00 (1) |" in found
    assert "Not run." in page.markdown(report.probes({}))


def test_the_command_probes_the_networks_of_a_workdir(tmp_path, capsys):
    student(tmp_path / "run", "student", resnet8_variables(10), num_classes=10)
    probe.main([str(tmp_path / "run"), "--data=digits"])
    network, data = load(tmp_path / "run"), sources.load("digits")
    features = [network.features(split.image) for split in (data.train, data.test)]
    scaler = StandardScaler().fit(features[0])
    layer = LogisticRegression(max_iter=1000).fit(scaler.transform(features[0]), data.train.label)
    accuracy = layer.score(scaler.transform(features[1]), data.test.label)
    assert f"student  digits {100 * accuracy:.2f} %" in capsys.readouterr().out
    assert read_json(locate(tmp_path / "run") / records.PROBES) == {"student": {"digits": accuracy}}


def test_a_folder_without_networks_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        probe.main([str(tmp_path), "--data=digits", "--config=configs/quickstart.py"])
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    assert "holds no network: give the workdir of a run that is done" in told
