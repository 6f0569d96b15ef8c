import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from tiny import TinyNet

from configs import cifar, quickstart
from experiments.bench import workload
from sskd_jax.models import MODELS


@pytest.fixture
def config(monkeypatch):
    """SSKD with tiny networks, whose student sees a tenth of the images in its own config."""
    flags.FLAGS.mark_as_parsed()
    monkeypatch.setitem(MODELS, "tiny", TinyNet)
    found = quickstart.get_config()
    found.teacher.model = found.student.model = "tiny"
    with flagsaver.flagsaver(steps=3, images=7, size=8, classes=5):
        yield found


def test_there_are_images_for_all_steps_of_the_largest_batches(config):
    run = workload.synthetic_run(config, jax.devices()[:2])
    assert run.train.size == 3 * config.teacher.batch_size and run.held_out.size == 7
    assert run.train.shape == run.held_out.shape == (8, 8, 3) and run.data.num_classes == 5
    assert run.devices == 2 and run.dtype == jnp.float32
    assert run.train.label.min() == 0 and run.train.label.max() == 4
    assert workload.synthetic_run(config, jax.devices()[:1], 1000).train.size == 1000


def test_every_stage_sees_all_of_them(config):
    run = workload.synthetic_run(config, jax.devices()[:1])
    steps = {job.kind: job.task.steps_per_epoch for job in workload.make_jobs(run)}
    assert steps == {"teacher": 3, "head": 3, "student": 6}
    assert config.student.images.share < 1


def test_what_earlier_stages_leave_has_numbers_of_the_right_shapes(config):
    """AB's student goes on from its warm-up, and its teacher is frozen in both stages."""
    config = cifar.get_config("method=ab")
    config.teacher.model = config.student.model = "tiny"
    run = workload.synthetic_run(config, jax.devices()[:1])
    teacher, warmup, student = workload.make_jobs(run)
    assert not teacher.frozen.nets and set(warmup.frozen.nets) == {"teacher"}
    assert set(student.start) == {"student"}
    expected = warmup.sketch.state.params["student"]
    found = student.start["student"]["params"]
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, expected)
    kernels = [leaf for leaf in jax.tree.leaves(student.frozen.nets) if leaf.ndim == 4]
    assert kernels and all(np.isfinite(leaf).all() and np.std(leaf) > 0 for leaf in kernels)
