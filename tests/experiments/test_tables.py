import json
import pathlib
import subprocess
import sys

import jax
import pytest
from tiny import TinyNet

from configs import quickstart
from experiments import tables
from sskd_jax.models import MODELS
from sskd_jax.types import Stopped


def pair(student: str, **changes) -> dict:
    """A pair of tiny networks on the digits, three steps per stage."""
    config = quickstart.get_config()
    for section in ("teacher", "head", "student"):
        config[section].update(epochs=1, batch_size=32, fraction=0.08, milestones=())
    config.teacher.model, config.student.model, config.methods = (
        "tiny",
        student,
        ("scratch", "sskd"),
    )
    config.paper = {"teacher": 90.0, "scratch": 80.0, "sskd": 85.0}
    config.update(changes)
    return config


@pytest.mark.slow
def test_pairs_share_their_teacher_and_go_on(tmp_path, monkeypatch):
    for name in ("tiny", "small"):
        monkeypatch.setitem(MODELS, name, TinyNet)
    with pytest.raises(Stopped):
        tables.run_pairs(
            [pair("tiny", time_limit=1e-6), pair("small", time_limit=1e-6)],
            tmp_path,
            jax.devices()[:1],
        )
    assert not (tmp_path / "tables.json").exists()
    rows = tables.run_pairs([pair("tiny"), pair("small")], tmp_path, jax.devices()[:1])
    assert [(row["student"], row["stage"]) for row in rows] == [
        (student, stage)
        for student in ("tiny", "small")
        for stage in ("teacher", "scratch/student", "sskd/student")
    ]
    assert rows[0]["top1"] == rows[3]["top1"]
    assert {path.parent.name for path in tmp_path.glob("*/teacher")} == {"tiny-tiny"}
    assert {path.parent.parent.name for path in tmp_path.glob("*/sskd/head")} == {"tiny-tiny"}
    assert json.loads((tmp_path / "tables.json").read_text()) == rows
    assert (tmp_path / "tables.png").stat().st_size > 1000
    assert tables.run_pairs([pair("tiny"), pair("small")], tmp_path, jax.devices()[:1]) == rows


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
    done = subprocess.run(
        [sys.executable, "-m", "experiments.tables", *typed, f"--workdir={tmp_path}"],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    )
    assert text in done.stderr
