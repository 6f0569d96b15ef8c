import json
import pathlib
import subprocess
import sys

import jax
import pytest
from ml_collections import ConfigDict
from quick import QUICK
from tiny import TinyNet

from configs import quickstart
from experiments import tables
from sskd_jax.engine.devices import RUN_OFTEN
from sskd_jax.models import MODELS
from sskd_jax.types import Stopped

SECTIONS = ("teacher", "head", "student")


def pair(student: str, **changes) -> ConfigDict:
    """A pair of tiny networks on the digits, three steps per stage."""
    config = quickstart.get_config()
    for section in SECTIONS:
        config[section].update(epochs=1, batch_size=32, milestones=())
        config[section].images.share = 0.08
    config.teacher.model, config.student.model = "tiny", student
    config.methods = ("scratch", "sskd")
    config.paper = {"teacher": 90.0, "scratch": 80.0, "sskd": 85.0}
    config.update(changes)
    return config


def test_pairs_share_their_teacher_and_go_on(tmp_path, monkeypatch):
    monkeypatch.setitem(RUN_OFTEN, "cpu", RUN_OFTEN["cpu"] | QUICK)
    for name in ("tiny", "small"):
        monkeypatch.setitem(MODELS, name, TinyNet)
    devices = jax.devices()[:1]
    with pytest.raises(Stopped):
        short = [pair("tiny", time_limit=1e-6), pair("small", time_limit=1e-6)]
        tables.run_pairs(short, tmp_path, devices)
    assert not (tmp_path / "tables.json").exists()
    rows = tables.run_pairs([pair("tiny"), pair("small")], tmp_path, devices)
    assert [(row["student"], row["stage"]) for row in rows] == [
        (student, stage)
        for student in ("tiny", "small")
        for stage in ("teacher", "scratch/student", "sskd/student")
    ]
    assert [row["paper"] for row in rows] == [90.0, 80.0, 85.0] * 2
    assert rows[0]["top1"] == rows[3]["top1"]
    assert {path.parent.name for path in tmp_path.glob("*/teacher")} == {"tiny-tiny"}
    assert {path.parent.parent.name for path in tmp_path.glob("*/sskd/head")} == {"tiny-tiny"}
    assert json.loads((tmp_path / "tables.json").read_text()) == rows
    assert (tmp_path / "tables.png").stat().st_size > 1000
    assert tables.run_pairs([pair("tiny"), pair("small")], tmp_path, devices) == rows


def test_a_given_teacher_and_methods_without_a_head_are_left_alone(tmp_path):
    (tmp_path / "tiny-tiny" / "teacher").mkdir(parents=True)
    (tmp_path / "tiny-tiny" / "teacher" / "stage.json").write_text("{}")
    config, folder = pair("small"), tmp_path / "tiny-small"
    del config.head
    tables.share_teacher(config, folder)
    assert config.teacher.checkpoint == str(tmp_path / "tiny-tiny") and "head" not in config
    config = pair("small")
    config.teacher.checkpoint = "elsewhere"
    tables.share_teacher(config, folder)
    assert config.teacher.checkpoint == "elsewhere" and not config.head.checkpoint
    config = pair("tiny")
    tables.share_teacher(config, tmp_path / "tiny-tiny")
    assert not config.teacher.checkpoint and not config.head.checkpoint


@pytest.mark.parametrize(
    "typed,text",
    [
        (["--config=configs/quickstart.py"], "the tables are those of configs/cifar.py"),
        (
            ["--config=configs/cifar.py", "--pair=vgg13"],
            "give a teacher and a student, such as wrn_40_2,wrn_16_2",
        ),
        (["--config=configs/cifar.py", "--pair=vgg13,vgg9"], "did you mean 'vgg"),
        (
            ["--config=configs/cifar.py", "--config.student.epochs=0"],
            "student.epochs is 0: give a whole number from 1 on",
        ),
    ],
)
def test_mistakes_are_one_line(typed, text, tmp_path):
    command = [sys.executable, "-m", "experiments.tables", *typed, f"--workdir={tmp_path}"]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2 and text in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
