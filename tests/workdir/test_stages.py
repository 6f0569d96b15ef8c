"""Finished stages on the disk: what they belong to, and those of earlier versions."""

import json

import jax
import numpy as np
import pytest

from sskd_jax.types import UserError
from sskd_jax.workdir.checkpoint import Checkpoints
from sskd_jax.workdir.stages import FORMAT, check_description, check_formats, describe, load_stage

NET = {"params": {"kernel": np.arange(3.0, dtype=np.float32)}, "batch_stats": {}}


def finished(folder, steps: int = 10, done: int = 10, **about: object) -> None:
    """A stage of one net, at step `done` of `steps`."""
    describe(folder, about | {"steps": steps})
    state = {"step": np.int32(done)} | {kind: {"net": NET[kind]} for kind in NET}
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state)


def test_a_stage_of_something_else_is_refused(tmp_path):
    describe(tmp_path, {"student_model": "vgg8", "steps": 10})  # and nothing was saved
    describe(tmp_path, {"student_model": "resnet20", "steps": 10})
    (tmp_path / "5").mkdir()
    describe(tmp_path, {"student_model": "resnet56", "steps": 10})  # what is written down stays
    message = "was trained with student_model resnet20, and this run has resnet56: try another"
    with pytest.raises(UserError, match=message):
        check_description(tmp_path, {"student_model": "resnet56"}, "try another")


def test_other_images_are_refused_if_it_is_known_which_they_were(tmp_path):
    describe(tmp_path, {"steps": 10})  # by an earlier version
    check_description(tmp_path, {"steps": 10, "images": "100"}, "")
    describe(tmp_path, {"steps": 10, "images": "100"})
    with pytest.raises(UserError, match="was trained with images 100, and this run has 101: stop"):
        check_description(tmp_path, {"steps": 10, "images": "101"}, "stop")
    describe(tmp_path, {"steps": 10, "dataset": "1a2b"})
    with pytest.raises(UserError, match="was trained with dataset 1a2b, and this run has 3c4d"):
        check_description(tmp_path, {"steps": 10, "dataset": "3c4d", "images": "101"}, "stop")
    describe(tmp_path, {"steps": 10, "classes": ["a", "b"]})
    message = r"was trained with classes b \(number 1\), and this run has c: stop"
    with pytest.raises(UserError, match=message):
        check_description(tmp_path, {"steps": 10, "classes": ["a", "c"]}, "stop")


def test_an_unfinished_stage_is_no_teacher(tmp_path):
    describe(tmp_path / "teacher", {"steps": 10})
    with pytest.raises(UserError, match="is at step 0 of 10: finish that run first"):
        load_stage(tmp_path, "teacher", {})
    finished(tmp_path / "half", done=5)
    with pytest.raises(UserError, match="half is at step 5 of 10: finish that run first"):
        load_stage(tmp_path / "half", "teacher", {})


def test_a_stage_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="holds no head: give a workdir of a run that trained one"):
        load_stage(tmp_path, "head", {})


@pytest.mark.parametrize("where", ["", "teacher", "kd/teacher"])
def test_a_finished_stage_gives_its_nets(where, tmp_path):
    """In a folder of its own, in a workdir, and in one of several methods."""
    finished(tmp_path / where)
    found = load_stage(tmp_path, "teacher", {})
    assert set(found) == {"net"}
    jax.tree.map(np.testing.assert_array_equal, found["net"], NET)


def test_of_several_methods_stages_the_one_that_fits_is_taken(tmp_path):
    for name, terms in (("at", ["ce", "at"]), ("kd", ["ce", "kd"]), ("sskd", ["ce", "ss"])):
        finished(tmp_path / name / "student", terms=terms)
    (tmp_path / "sskd/student/stage.json").unlink()
    load_stage(tmp_path, "student", {"terms": ["ce", "kd"]})
    load_stage(tmp_path, "kd/student", {})
    message = r"at/student was trained with terms \['ce', 'at'\], and this run has \['ce'\]: give"
    message += ".* or another student; for methods that want different ones, a workdir that holds"
    with pytest.raises(UserError, match=message):
        load_stage(tmp_path, "student", {"terms": ["ce"]})


@pytest.mark.parametrize("written", [{}, {"format": FORMAT - 1}, {"format": FORMAT + 1}])
def test_checkpoints_of_another_version_are_refused(written, tmp_path):
    (tmp_path / "kd/student").mkdir(parents=True)
    (tmp_path / "kd/student/stage.json").write_text(json.dumps(written | {"steps": 10}))
    message = (
        "kd/student was trained by another version of sskd_jax, whose checkpoints this one does "
        "not read: train it again in another --workdir, or go on with the git_revision that envir"
    )
    for read in (
        lambda: check_formats(tmp_path),
        lambda: load_stage(tmp_path, "student", {}),
        lambda: check_description(tmp_path / "kd/student", {}, "try another"),
    ):
        with pytest.raises(UserError, match=message):
            read()


def test_a_workdir_of_this_version_is_fine(tmp_path):
    check_formats(tmp_path)
    for name in ("teacher", "kd/student"):
        describe(tmp_path / name, {})
    check_formats(tmp_path)


def test_a_damaged_description_is_told(tmp_path):
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/stage.json").write_text("{")
    with pytest.raises(UserError, match="teacher/stage.json is damaged"):
        check_formats(tmp_path)
