import jax
import pytest
from absl import flags
from absl.testing import flagsaver
from tiny import TinyNet

from configs import cifar, quickstart
from experiments.bench import costs
from sskd_jax.models import MODELS

BANKS = 2 * 5000 * 128 * 4  # bytes of CRD's memory of 5000 images


@pytest.fixture
def config(monkeypatch):
    flags.FLAGS.mark_as_parsed()
    monkeypatch.setitem(MODELS, "tiny", TinyNet)
    found = cifar.get_config()
    found.teacher.model = found.student.model = "tiny"
    size = {"steps": 1, "rounds": 1, "images": 16, "size": 8, "classes": 10}
    with flagsaver.flagsaver(train_images=5000, method=["kd", "ft", "crd"], **size):
        yield found


@pytest.mark.slow
def test_parameters_and_state_of_students_and_own_stages(config):
    rows = {(row["method"], row["stage"]): row for row in costs.measure(config)}
    assert set(rows) == {
        ("kd", "student"),
        ("ft", "student"),
        ("ft", "paraphraser"),
        ("crd", "student"),
    }
    kd, crd = rows["kd", "student"], rows["crd", "student"]
    assert kd["own parameters"] == 0
    assert crd["own parameters"] == 2 * (16 + 1) * 128  # two layers from embeddings of 16
    assert crd["MiB"] - kd["MiB"] > BANKS / 2**20
    assert all(row["ms"] > 0 and row["times KD's"] > 0 for row in rows.values())


def test_state_counts_what_own_stages_learned_and_no_teacher(config):
    """FT's student keeps the paraphraser, not its decoder, and reads a teacher that is none."""
    _, paraphraser, student = costs.method_jobs(config, "ft", jax.devices()[:1])
    kept = student.frozen.nets["paraphraser"]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(kept))
    state = sum(leaf.size * 4 for leaf in jax.tree.leaves(student.sketch.state))
    assert costs.state_bytes(student) == state + size
    assert costs.own_parameters(paraphraser) > size / 4 > 0


def test_a_stream_has_the_epochs_of_its_tasks(config):
    (student,) = costs.method_jobs(config, "der", jax.devices()[:1])
    assert student.epochs == 5 * 50


def test_the_config_of_another_method_has_its_stages(config):
    typed = cifar.get_config("method=sskd")
    typed.head.epochs = 7
    assert costs.method_config(typed, "sskd").head.epochs == 7
    assert costs.method_config(config, "ab").warmup.epochs == 30
    several = costs.method_config(quickstart.get_config(), "at")
    assert several.methods == ("at",) and several.settings.at.method.name == "at"
