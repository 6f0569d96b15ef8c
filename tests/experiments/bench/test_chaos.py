"""A handful of the kills of `experiments/bench/chaos.py`, which would see a difference."""

import json
import random
import shutil

import conftest
import numpy as np
import pytest

from experiments.bench import chaos
from sskd_jax.workdir.checkpoint import Checkpoints
from sskd_jax.workdir.logbook import write_json

FLAGS = (*chaos.SMALL, "--config.methods=('sskd',)")
SEED = 2957  # both kinds of kills in turn, none so late that the run has ended before it


@pytest.mark.slow
def test_killed_runs_end_as_one_that_was_never_stopped(tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", conftest.PROGRAMS)
    kills, wrong = chaos.torment(FLAGS, tmp_path, 4, random.Random(SEED))
    assert len(kills) == 4 and not wrong
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    stages = ("teacher", "sskd/head", "sskd/student")
    assert [(row["stage"], row["epoch"]) for row in map(json.loads, lines)] == [
        (stage, epoch) for stage in stages for epoch in (1, 2, 3)
    ]


@pytest.fixture
def finished(tmp_path):
    """What a run of one stage leaves."""
    workdir = tmp_path / "whole"
    (workdir / "teacher").mkdir(parents=True)
    write_json(workdir / "teacher" / "stage.json", {})
    for name in ("metrics.jsonl", "results.json"):
        (workdir / name).write_text("{}\n")
    with Checkpoints(workdir / "teacher") as checkpoints:
        checkpoints.save({"step": np.int32(1), "params": np.float32([1, 2])}, 0.5)
    return workdir


def change_a_bit(workdir) -> None:
    """The smallest possible change of one parameter."""
    params = np.nextafter(np.float32([1, 2]), np.float32(3))
    shutil.rmtree(workdir / "teacher" / "1")
    with Checkpoints(workdir / "teacher") as checkpoints:
        checkpoints.save({"step": np.int32(1), "params": params}, 0.5)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda workdir: None, []),
        (change_a_bit, ["teacher"]),
        (lambda workdir: (workdir / "metrics.jsonl").write_text("{}\n{}\n"), ["metrics.jsonl"]),
        (lambda workdir: (workdir / "teacher" / "stage.json").unlink(), ["stages"]),
    ],
)
def test_differences_are_seen(finished, change, found):
    other = finished.with_name("killed")
    shutil.copytree(finished, other)
    change(other)
    assert chaos.differences(other, finished) == found
