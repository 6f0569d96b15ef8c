"""Paths on the disk, and what of a run is written to a bucket, for which a folder stands here."""

import json
from pathlib import Path
from unittest.mock import Mock

import jax
import pytest
from etils.epath import backend, gpath

from experiments import record
from sskd_jax.system.paths import is_remote, locate, on_disk, write_bytes
from sskd_jax.types import UserError
from sskd_jax.workdir import report
from sskd_jax.workdir.logbook import Logbook
from sskd_jax.workdir.stages import check_description, check_formats, describe, stage_folders
from tests.experiments.finished import finished


class Bucket:
    """gs://NAME/... is FOLDER/NAME/...; everything else would be a mistake."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __getattr__(self, name: str):
        found = getattr(backend.os_backend, name)
        return lambda path, *args, **named: self.outside(
            found(self.inside(path), *map(self.inside, args), **named)
        )

    def inside(self, path):
        if str(path) in ("r", "w", "a", "rb", "wb"):
            return path
        assert str(path).startswith("gs://"), path
        return str(path).replace("gs:/", str(self.folder), 1)

    def outside(self, result):
        if isinstance(result, list):
            return [str(path).replace(str(self.folder), "gs:/", 1) for path in result]
        return result


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    (tmp_path / "bucket").mkdir()
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", Bucket(tmp_path))
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr("sskd_jax.workdir.tensorboard.open_writer", Mock())
    return locate("gs://bucket/run")


def test_paths_on_the_disk_are_whole(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert str(locate("runs/kd")) == str(tmp_path / "runs/kd")
    assert str(locate("~/x")) == str(Path.home() / "x")
    assert not is_remote(locate("x")) and is_remote("gs://bucket/x")


def test_what_needs_a_disk_refuses_a_bucket(tmp_path):
    assert on_disk(tmp_path) == tmp_path
    with pytest.raises(UserError, match="^gs://bucket/run is in a bucket: give a folder on a disk"):
        on_disk("gs://bucket/run")
    assert str(on_disk("~nobody_of_this_name/runs")) == "~nobody_of_this_name/runs"


def test_a_run_in_a_bucket_is_recorded_on_a_disk(bucket, tmp_path):
    finished(tmp_path / "bucket" / "run")
    record.keep_runs([str(bucket)], tmp_path / "results")
    assert json.loads((tmp_path / "results/run/protocol.json").read_text())["status"] == "done"


def test_a_bucket_stays_one(bucket):
    assert str(bucket) == "gs://bucket/run" and str(bucket / "student") == "gs://bucket/run/student"


def test_files_are_replaced_in_one_go(tmp_path, bucket):
    bucket.mkdir()
    for path in (locate(tmp_path / "file"), bucket / "file"):
        for content in (b"one", b"two"):
            write_bytes(path, content)
            assert path.read_bytes() == content
        assert [file.name for file in path.parent.iterdir() if "file" in file.name] == ["file"]


def test_a_logbook_in_a_bucket_goes_on_and_ends_with_a_picture(bucket, tmp_path):
    rows = [
        {"stage": "student", "epoch": n, "step": n, "train/loss": 1.0 / n, "test/top1": 0.5}
        for n in (1, 2)
    ]
    with (
        Logbook(bucket, {"seed": 0}, jax.devices()[:1]) as book,
        Logbook(bucket.parent / "other", {}, jax.devices()),
    ):
        book.write(rows[0])
        book.write(rows[1])
        describe(bucket / "student", {"model": "resnet20"})
        (bucket / "student" / "2").mkdir()
        (bucket / "student" / "2" / "commit_success.txt").touch()  # orbax's mark in a bucket
    with Logbook(bucket, {"seed": 0}, jax.devices()[:1]) as book:
        assert book.rows() == rows
        book.rewind("student", 1)
        assert book.rows() == rows[:1]
        report.finish(
            book,
            [
                {
                    "stage": "student",
                    "network": "resnet20",
                    "parameters": 1,
                    "top1": 0.5,
                    "top5": 1.0,
                }
            ],
        )
    assert json.loads((tmp_path / "bucket/run/results.json").read_text())[0]["top1"] == 0.5
    assert (tmp_path / "bucket/run/curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(
        UserError, match="gs://bucket/run holds a run with another config .seed was 0, is 1"
    ):
        Logbook(bucket, {"seed": 1}, jax.devices()[:1])


def test_stages_in_a_bucket_are_found_and_described(bucket):
    for name in ("teacher", "kd/student"):
        describe(bucket / name, {"model": name})
    assert sorted(str(path.relative_to(bucket)) for path in stage_folders(bucket)) == [
        "kd/student",
        "teacher",
    ]
    check_formats(bucket)
    with pytest.raises(UserError, match="gs://bucket/run/teacher was trained with model teacher"):
        check_description(bucket / "teacher", {"model": "other"}, "give another")
