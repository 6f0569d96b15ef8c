import pytest
from absl import flags
from absl.testing import flagsaver
from quick import QUICK
from tiny import TinyNet

from configs import cifar
from experiments.bench import costs
from sskd_jax.engine.devices import RUN_OFTEN
from sskd_jax.models import MODELS


@pytest.mark.slow
def test_parameters_and_state_of_students_and_own_stages(monkeypatch):
    flags.FLAGS.mark_as_parsed()
    monkeypatch.setitem(MODELS, "tiny", TinyNet)
    monkeypatch.setitem(RUN_OFTEN, "cpu", RUN_OFTEN["cpu"] | QUICK)
    config = cifar.get_config()
    config.teacher.model = config.student.model = "tiny"
    with flagsaver.flagsaver(
        steps=1,
        rounds=1,
        images=16,
        size=8,
        classes=10,
        train_images=5000,
        method=["kd", "ft", "crd"],
    ):
        rows = {(row["method"], row["stage"]): row for row in costs.measure(config)}
    assert set(rows) == {
        ("kd", "student"),
        ("ft", "student"),
        ("ft", "paraphraser"),
        ("crd", "student"),
    }
    assert rows["kd", "student"]["own parameters"] == 0
    assert (
        rows["crd", "student"]["own parameters"] == 2 * (16 + 1) * 128
    )  # two layers from embeddings of 16
    assert (
        rows["crd", "student"]["MiB"] - rows["kd", "student"]["MiB"] > 2 * 5000 * 128 * 4 / 2**20
    )  # two banks
    assert all(row["ms"] > 0 and row["times KD's"] > 0 for row in rows.values())
