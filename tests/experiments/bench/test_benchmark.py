import json
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from quick import QUICK
from tiny import TinyNet

from configs import quickstart
from experiments.bench import benchmark
from sskd_jax.engine.devices import RUN_OFTEN
from sskd_jax.models import MODELS
from sskd_jax.models.resnet import ResNet
from sskd_jax.types import UserError


@pytest.fixture
def tiny(monkeypatch):
    """A config of a tiny network, timed once."""
    flags.FLAGS.mark_as_parsed()
    monkeypatch.setitem(MODELS, "tiny", TinyNet)
    monkeypatch.setitem(RUN_OFTEN, "cpu", RUN_OFTEN["cpu"] | QUICK)
    config = quickstart.get_config()
    config.teacher.model = config.student.model = "tiny"
    for name in ("teacher", "head", "student"):
        config[name].update(batch_size=16, fraction=1.0)
    with flagsaver.flagsaver(steps=2, rounds=1, images=16, size=8, classes=10):
        yield config


@pytest.mark.slow
def test_a_row_for_everything(tiny, tmp_path):
    peer = f"{sys.executable} -c \"print('hello'); print('{{\\\"ms_per_step\\\": 1e9}}')\""
    with flagsaver.flagsaver(
        peer=peer, only=["student", "loop", "stages"], out=str(tmp_path / "out.json")
    ):
        benchmark.report(tiny, benchmark.measure(tiny))
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
    assert rows["peer's step"]["ratio"] == pytest.approx(
        1e9 / rows["peer's step"]["ours_ms"], rel=1e-3
    )
    assert content["environment"]["versions"]["jax"] and content["config"]["seed"] == 0


@pytest.mark.parametrize(
    "command", ["no-such-program", f"{sys.executable} -c pass", "echo hello", "echo '{}'"]
)
def test_a_peer_that_prints_nothing_of_use_is_named(command):
    with pytest.raises(UserError, match="printed no JSON line with ms_per_step"):
        benchmark.peer_milliseconds(command)


def test_arithmetic_is_that_of_the_layers():
    """By hand, without what would multiply padding: 22 of 24 taps reach a map 8 pixels wide, 11 of 12 by steps of 2."""
    stem_and_block = 22**2 * 8 * (3 + 8 + 8)
    second_block = 11**2 * 8 * 16 + 10**2 * 16 * 16 + 4**2 * 8 * 16
    network = ResNet(num_classes=10, blocks=(1, 1), widths=(8, 8, 16))
    operations = benchmark.forward_arithmetic(network, np.zeros((1, 8, 8, 3), np.float32))
    assert operations == pytest.approx(2 * (stem_and_block + second_block + 16 * 10), rel=0.05)


@pytest.mark.slow
def test_a_start_is_timed_in_a_process_of_its_own(tiny, monkeypatch):
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "benchmark",
            "--config=configs/quickstart.py",
            "--size=8",
            "--classes=10",
            "--config.student.batch_size=8",
        ],
    )
    first, second = benchmark.start_rows()
    assert first["ms"] > second["ms"] > 0


def test_mistakes_are_one_line():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.bench.benchmark",
            "--config=configs/cifar.py",
            "--steps=0",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "steps" in done.stderr
