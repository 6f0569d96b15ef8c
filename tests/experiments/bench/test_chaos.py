"""A handful of the attacks of `experiments/bench/chaos`, which would see a difference."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from processes import environment

from experiments.bench.chaos import runs
from experiments.bench.chaos.commands import contents, halves
from experiments.bench.chaos.moments import chosen, stopped_well
from experiments.bench.chaos.runs import Ended, differences, ending, judged
from sskd_jax.workdir.checkpoint import Checkpoints
from sskd_jax.workdir.files import write_json, write_rows

ROOT = pathlib.Path(__file__).resolve().parents[3]
SEED = 2957  # a kill of either kind, neither after the end of the run
QUICK_TO_COMPILE = tuple(f"--config.{part}.model=toys:Small" for part in ("teacher", "student"))


def chaos(*flags: str) -> str:
    """What attacks print that must all end well."""
    command = [sys.executable, "-m", "experiments.bench.chaos", *flags, *QUICK_TO_COMPILE]
    env = environment(devices=1)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_killed_runs_end_as_one_that_was_never_stopped():
    flags = runs.small("('sskd',)", batch_size=32, share=0.2)
    assert "2 attacks, 0 mismatches" in chaos("--kills=2", f"--seed={SEED}", *flags)


@pytest.mark.slow
def test_signals_and_damage_change_no_bit():
    printed = chaos("--signals", "--damage", "--moments=1", *runs.TINY)
    assert "2 attacks, 0 mismatches" in printed
    assert "run, SIGTERM" in printed and re.search("(finished|killed) run", printed)


EPOCHS = [{"stage": "teacher", "epoch": i, "step": i, "test/top1": i / 4} for i in (1, 2)]
RESULT = {"stage": "teacher", "top1": 0.5, "best_top1": 0.5, "best_epoch": 2}


@pytest.fixture
def finished(tmp_path):
    """What a run of one stage leaves."""
    workdir = tmp_path / "whole"
    (workdir / "teacher").mkdir(parents=True)
    write_json(workdir / "teacher" / "stage.json", {})
    write_rows(workdir / "metrics.jsonl", EPOCHS)
    write_json(workdir / "results.json", [RESULT])
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
        (change_a_bit, ["teacher, last", "teacher, best"]),
        (lambda workdir: write_rows(workdir / "metrics.jsonl", EPOCHS[:1]), ["metrics.jsonl"]),
        (lambda workdir: (workdir / "metrics.jsonl").unlink(), ["metrics.jsonl"]),
        (
            lambda workdir: write_json(workdir / "results.json", [RESULT | {"best_epoch": 1}]),
            ["results.json, best"],
        ),
        (
            lambda workdir: write_json(workdir / "results.json", [RESULT | {"top1": 0.25}]),
            ["results.json"],
        ),
        (
            lambda workdir: (workdir / "teacher" / "stage.json").unlink(),
            ["teacher, last", "teacher, best"],
        ),
    ],
)
def test_differences_are_seen(finished, change, found):
    other = finished.with_name("killed")
    shutil.copytree(finished, other)
    change(other)
    assert differences(ending(other), ending(finished)) == found


SOUND = {"metrics.jsonl": {}, "teacher, last": "0a", "teacher, best": "0b"}
BEST_LOST = "teacher  its best checkpoint is lost: the results name no best epoch\n"
ROWS_LOST = "teacher  metrics.jsonl lacks 1 of 3 epochs: they are in no curve\n"


@pytest.mark.parametrize(
    ("verdict", "code", "printed", "changes"),
    [
        ("right", 0, "a line\n", {}),
        ("refused", 2, "a line\nerror: config.json is damaged\n", {}),
        ("mismatch", 2, "Traceback (most recent call last):\nerror: x\n", {}),
        ("mismatch", 2, "error: x\nerror: y\n", {}),
        ("mismatch", 2, "", {}),
        ("mismatch", 1, "error: x\n", {}),
        ("mismatch", 0, "Traceback (most recent call last):\n", {}),
        ("mismatch", 0, "", {"teacher, last": "0c"}),
        ("mismatch", 0, "", {"teacher, best": "0c"}),
        ("told", 0, BEST_LOST, {"teacher, best": "0c"}),
        ("mismatch", 0, BEST_LOST, {"teacher, last": "0c"}),
        ("told", 0, ROWS_LOST, {"metrics.jsonl": {"teacher": []}}),
        ("mismatch", 0, BEST_LOST, {"metrics.jsonl": {"teacher": []}}),
    ],
)
def test_only_what_is_right_or_told_passes(verdict, code, printed, changes):
    assert judged("", "", Ended(code, printed), SOUND | changes, SOUND).verdict == verdict


@pytest.mark.parametrize(
    ("every", "most", "found"),
    [(1, None, [1, 2, 3, 4, 5, 6, 7]), (3, None, [1, 4, 7]), (1, 3, [2, 4, 6]), (3, 9, [1, 4, 7])],
)
def test_moments_are_chosen_evenly(every, most, found):
    assert chosen(7, every, most) == found


def test_how_a_program_may_end_at_a_signal():
    assert [code for code in (-15, -9, 0, 1, 2, 75) if stopped_well(code, 15)] == [0, 75]
    assert [code for code in (-15, -9, 0, 1, 2, 75) if stopped_well(code, 9)] == [-9, 0]


def test_half_written_files_are_seen(tmp_path):
    for name in ("a", "b", ".c.part", "incomplete.X/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    (tmp_path / "empty").mkdir()
    whole = {"a": contents(tmp_path)["a"], "b": "another", "e": "another"}
    assert halves({}, tmp_path, whole, (".", "incomplete.")) == ["b"]
    assert halves({}, tmp_path, whole) == ["b", "incomplete.X/d"]
    assert not halves({"b": contents(tmp_path)["b"]}, tmp_path, whole, (".", "incomplete."))


WATCHED = """
import json, os, pathlib, shutil, sys
from experiments.bench.chaos.moments import watch
folder = pathlib.Path(sys.argv[1])
seen = watch(folder, moment=int(sys.argv[2]), number=9)
(folder / "a" / "b").mkdir(parents=True)
(folder / "a" / "b" / "file").write_text("x")
os.replace(folder / "a" / "b" / "file", folder / "a" / "other")
(folder.parent / "beside").write_text("x")
shutil.rmtree(folder / "a")
print(json.dumps(seen))
"""


def test_every_file_operation_is_seen(tmp_path):
    folder = tmp_path / "watched"
    folder.mkdir()

    def watched(moment: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", WATCHED, str(folder), str(moment)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    seen = [tuple(operation) for operation in json.loads(watched(0).stdout)]
    expected = [("os.mkdir", "a/b"), ("os.mkdir", "a"), ("open", "a/b/file")]
    assert set(expected) < set(seen) and ("os.remove", "a/other") in seen
    renamed = seen.index(("os.rename", "a/b/file"))
    assert seen.index(("open", "a/b/file")) < renamed < seen.index(("shutil.rmtree", "a"))
    assert not [path for _, path in seen if "beside" in path]
    assert watched(renamed + 1).returncode == -9
    assert (folder / "a/b/file").exists() and not (folder / "a/other").exists()
