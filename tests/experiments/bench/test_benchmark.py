import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from tiny import TinyNet

from configs import quickstart
from experiments.bench import benchmark, command, workload
from sskd_jax.models import MODELS
from sskd_jax.models.resnet import ResNet
from sskd_jax.types import UserError


@pytest.fixture
def tiny(monkeypatch):
    """A config of a tiny network, timed once."""
    flags.FLAGS.mark_as_parsed()
    monkeypatch.setitem(MODELS, "tiny", TinyNet)
    config = quickstart.get_config()
    config.teacher.model = config.student.model = "tiny"
    for name in ("teacher", "head", "student"):
        config[name].batch_size = 16
    with flagsaver.flagsaver(steps=2, rounds=1, images=16, size=8, classes=10):
        yield config


@pytest.mark.slow
def test_a_row_for_everything(tiny, tmp_path):
    peer = f"{sys.executable} -c \"print('hello'); print('{{\\\"ms_per_step\\\": 1e9}}')\""
    only = ["student", "loop", "stages"]
    with flagsaver.flagsaver(peer=peer, only=only, out=str(tmp_path / "out.json")):
        command.report(tiny, benchmark.measure(tiny))
    content = json.loads((tmp_path / "out.json").read_text())
    rows = {row["what"]: row for row in content["rows"]}
    assert set(rows) == {
        "peer's step",
        "student step",
        "student step alone",
        "evaluation",
        "epoch of the loop",
        "teacher step",
        "head step",
    }
    assert all(row["ms"] >= row["ms_best"] > 0 for row in rows.values())
    peer_row = rows["peer's step"]
    assert peer_row["ratio"] == pytest.approx(1e9 / peer_row["ours_ms"], rel=1e-3)
    steps = [row for name, row in rows.items() if name.endswith(" step") and row != peer_row]
    assert all(row["gflop"] > 0 and row["share_of_peak"] is None for row in steps)
    assert rows["epoch of the loop"]["of_bare"] > 0
    assert content["environment"]["versions"]["jax"] and content["config"]["seed"] == 0


@pytest.mark.parametrize(
    "command", ["no-such-program", f"{sys.executable} -c pass", "echo hello", "echo '{}'", "echo 3"]
)
def test_a_peer_that_prints_nothing_of_use_is_named(command):
    with pytest.raises(UserError, match="printed no JSON line with ms_per_step"):
        benchmark.peer_milliseconds(command)


# Operations on an 8x8 image, without what would multiply padding: 22 of 24 taps reach a map 8
# pixels wide, and 11 of 12 by steps of 2.
TINY = 2 * (22**2 * 8 * (3 + 8) + 11**2 * 8 * 16 + 16 * 10)
# Each block's second convolution, and the projection on a skip connection.
RESIDUAL = TINY + 2 * (22**2 * 8 * 8 + 10**2 * 16 * 16 + 4**2 * 8 * 16)


def test_operations_are_those_of_the_layers():
    network = ResNet(num_classes=10, blocks=(1, 1), widths=(8, 8, 16))
    image = np.zeros((1, 8, 8, 3), np.float32)
    assert benchmark.forward_operations(network, (image,), {}) == pytest.approx(RESIDUAL, rel=0.05)


def test_a_steps_operations_are_those_of_every_net_that_its_loss_calls(tiny):
    """On 16 images, in four views: what learns counts three times, what is frozen once."""
    run = workload.synthetic_run(tiny, jax.devices()[:1])
    jobs = {job.kind: job for job in workload.make_jobs(run)}
    found = {kind: benchmark.step_operations(job) / 16 for kind, job in jobs.items()}
    head = 2 * 2 * 16 * 16
    assert found["teacher"] == pytest.approx(3 * TINY, rel=0.05)
    assert found["head"] == pytest.approx(4 * (TINY + 3 * head), rel=0.05)
    assert found["student"] == pytest.approx(4 * (4 * TINY + 4 * head), rel=0.05)
    assert [name for name, *_ in benchmark.net_calls(jobs["student"])] == [
        "student",
        "teacher",
        "head",
        "teacher_head",
    ]


@pytest.mark.parametrize(("kind", "share"), [("NVIDIA H100 80GB HBM3", 0.5), ("abacus", None)])
def test_the_share_of_the_peak_is_that_of_all_devices(kind, share):
    devices = 2 * [SimpleNamespace(device_kind=kind)]
    figures = benchmark.arithmetic(989e12, 1000.0, devices)
    assert figures == {"gflop": 989e3, "share_of_peak": share}


@pytest.mark.slow
def test_a_start_is_timed_in_a_process_of_its_own(tiny, monkeypatch):
    typed = ("--size=8", "--classes=10", "--config.student.batch_size=8")
    monkeypatch.setattr(sys, "argv", ["benchmark", "--config=configs/quickstart.py", *typed])
    with flagsaver.flagsaver(only=["start"]):
        first, second = benchmark.measure(tiny)
    assert first["ms"] > second["ms"] > 0


def test_mistakes_are_one_line():
    command = ["-m", "experiments.bench.benchmark", "--config=configs/cifar.py", "--steps=0"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "steps" in done.stderr
