import json
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from tiny import TinyNet

from configs import quickstart
from experiments import benchmark
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
        config[name].update(batch_size=16, fraction=1.0)
    with flagsaver.flagsaver(steps=2, rounds=1, images=16, size=8, classes=10):
        yield config


@pytest.mark.slow
def test_a_row_for_everything(tiny, monkeypatch, tmp_path):
    peer = f"{sys.executable} -c \"print('hello'); print('{{\\\"ms_per_step\\\": 1e9}}')\""
    with flagsaver.flagsaver(peer=peer, only=["student", "loop", "stages"], out=str(tmp_path / "out.json")):
        benchmark.report(tiny, benchmark.measure(tiny))
    content = json.loads((tmp_path / "out.json").read_text())
    rows = {row["what"]: row for row in content["rows"]}
    assert set(rows) == {"peer's step", "student step", "student step alone", "evaluation", "epoch of the loop",
                         "teacher step", "head step"}
    assert all(row["ms"] >= row["ms_best"] > 0 for row in rows.values())
    assert rows["peer's step"]["ratio"] == pytest.approx(1e9 / rows["peer's step"]["ours_ms"], rel=1e-3)
    assert content["environment"]["versions"]["jax"] and content["config"]["seed"] == 0


@pytest.mark.parametrize("command", ["no-such-program", f"{sys.executable} -c pass", "echo hello", "echo '{}'"])
def test_a_peer_that_prints_nothing_of_use_is_named(command):
    with pytest.raises(UserError, match="printed no JSON line with ms_per_step"):
        benchmark.peer_milliseconds(command)


def test_arithmetic_is_that_of_the_layers():
    """By hand: a 3x3 stem 3 -> 8 and two blocks of 8 -> 8, then 8 -> 16 at half the size, on 8x8 images."""
    network, pixels = ResNet(num_classes=10, blocks=(1, 1), widths=(8, 8, 16)), 64
    by_hand = pixels * 9 * 8 * (3 + 8 + 8) + pixels // 4 * (9 * 8 * 16 + 9 * 16 * 16 + 8 * 16) + 16 * 10
    image = np.zeros((1, 8, 8, 3), np.float32)
    assert benchmark.forward_arithmetic(network, image) == pytest.approx(2 * by_hand, rel=0.15)


@pytest.mark.slow
def test_a_start_is_timed_in_a_process_of_its_own(tiny, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", "--config=configs/quickstart.py", "--size=8", "--classes=10",
                                      "--config.student.batch_size=8"])
    first, second = benchmark.start_rows()
    assert first["ms"] > second["ms"] > 0


def test_mistakes_are_one_line():
    done = subprocess.run([sys.executable, "-m", "experiments.benchmark", "--config=configs/cifar.py", "--steps=0"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "steps" in done.stderr
