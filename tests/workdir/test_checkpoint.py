import errno
import pathlib
import random
import resource
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization

from sskd_jax.types import UserError
from sskd_jax.workdir.checkpoint import Checkpoints, checksum, has_checkpoints, read_newest


def state(step: int) -> dict:
    weight = np.random.default_rng(step).standard_normal((40, 30), np.float32)
    return {
        "step": np.int32(step),
        "params": {"conv1.weight": weight, "empty": {}},
        "opt_state": ({}, np.arange(3)),
    }


def same(stored: dict, step: int) -> bool:
    expected = serialization.to_state_dict(state(step))
    return jax.tree.structure(stored) == jax.tree.structure(expected) and all(
        map(np.array_equal, jax.tree.leaves(stored), jax.tree.leaves(expected))
    )


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of the steps 0 to 4, of which that of step 1 is the best."""
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in enumerate((0.1, 0.9, 0.3, 0.2, 0.4)):
            checkpoints.save(state(step), score)
    return tmp_path


def test_the_last_two_and_the_best_are_kept(folder):
    with Checkpoints(folder) as checkpoints:
        newest, best = checkpoints.newest(), checkpoints.best()
    assert (
        same(newest, 4)
        and same(best, 1)
        and {path.name for path in folder.iterdir()} == {"1", "3", "4"}
    )
    assert newest["step"].dtype == np.int32


def test_those_of_an_earlier_orbax_are_read(tmp_path):
    # The fixture `folder`, written with orbax 0.12.8.
    shutil.unpack_archive(pathlib.Path(__file__).with_name("orbax_0.12.8.zip"), tmp_path)
    assert same(read_newest(tmp_path), 4)
    with Checkpoints(tmp_path) as checkpoints:
        assert same(checkpoints.newest(), 4) and same(checkpoints.best(), 1)
        checkpoints.save(state(5), 1.0)
        assert same(checkpoints.newest(), 5) and same(checkpoints.best(), 5)


def test_a_checkpoint_is_not_written_twice(folder):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save({**state(4), "params": {}})
        assert same(checkpoints.newest(), 4)


def test_one_without_a_score_is_never_the_best(folder):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state(5))
        assert same(checkpoints.newest(), 5) and same(checkpoints.best(), 1)


def test_there_may_be_none(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest() is None and checkpoints.best() is None


def contents(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def flip(data: bytes) -> bytes:
    """One bit of it is another."""
    rng = random.Random(len(data))
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[: len(data) // 2], flip],
    ids=["emptied", "truncated", "flipped"],
)
def test_damage_is_never_read(folder, damage, tmp_path_factory, capsys):
    """Whatever file of the newest checkpoint it hits.

    The numbers are whole, or the damage is told and another checkpoint is used.
    """
    used = set()
    for i, name in enumerate(contents(folder / "4")):
        spoiled = tmp_path_factory.mktemp("spoiled") / str(i)
        shutil.copytree(folder, spoiled)
        path = spoiled / "4" / name
        path.write_bytes(damage(path.read_bytes()))
        with Checkpoints(spoiled) as checkpoints:
            newest, best = checkpoints.newest(), checkpoints.best()
        step, told = int(newest["step"]), capsys.readouterr().out
        assert same(newest, step) and same(best, 1)
        assert told.count("\n") == (step == 3) == (spoiled / "damaged-4").exists()
        assert step == 4 or f"{spoiled / '4'} is damaged" in told
        used.add(step)
    assert used == {3, 4}


def test_a_damaged_best_checkpoint_is_told_and_another_is_used(folder, capsys):
    (folder / "1" / "default" / "manifest.ocdbt").unlink()
    with Checkpoints(folder) as checkpoints:
        assert same(checkpoints.best(), 4)
    assert f"{folder / '1'} is damaged" in capsys.readouterr().out


OF_THE_MACHINE = {  # as the system raises it, and as tensorstore does
    "Too many open files": OSError(errno.EMFILE, "Too many open files"),
    "Permission denied": ValueError("PERMISSION_DENIED: no [source [os_error_code='13']]"),
    "MemoryError": MemoryError(),
    "ValueError UNAVAILABLE: no answer": ValueError("UNAVAILABLE: no answer"),
}


@pytest.mark.parametrize("reason", OF_THE_MACHINE)
def test_a_machine_that_can_not_read_now_leaves_a_checkpoint_as_it_is(folder, monkeypatch, reason):
    def restore(*_):
        raise OF_THE_MACHINE[reason]

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", restore)
    before = sorted(folder.iterdir())
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(UserError, match=f"4 can't be read now .{reason}.: mend that, then"):
            checkpoints.newest()
    assert sorted(folder.iterdir()) == before


def test_a_step_that_is_damaged_again_takes_the_place_of_the_first_one(folder):
    for _ in range(2):
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(state(5), 0.1)
        shutil.rmtree(folder / "5" / "default")
        with Checkpoints(folder) as checkpoints:
            assert same(checkpoints.newest(), 4)
    assert (folder / "damaged-5").exists()


def test_of_equal_scores_the_last_one_is_the_best(tmp_path):
    """As the results' best epoch and the dot in their picture."""
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in enumerate((0.5, 0.9, 0.9, 0.4)):
            checkpoints.save(state(step), score)
        assert same(checkpoints.best(), 2)


def test_a_checkpoint_that_lost_all_its_files_is_told(folder, capsys):
    shutil.rmtree(folder / "4")
    (folder / "4").mkdir()
    with Checkpoints(folder) as checkpoints:
        assert same(checkpoints.newest(), 3)
    assert "is now called damaged-4" in capsys.readouterr().out


def test_a_folder_of_another_run_is_only_read(folder):
    assert same(read_newest(folder), 4)
    shutil.rmtree(folder / "4" / "default")
    with pytest.raises(UserError, match="4 is damaged: put a copy of it back"):
        read_newest(folder)
    assert {path.name for path in folder.iterdir()} == {"1", "3", "4"}


def test_what_a_killed_process_left_is_cleared_away(folder):
    (folder / "5.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state(6))
    assert {path.name for path in folder.iterdir()} == {"1", "4", "6"}


def test_in_a_bucket_one_without_a_mark_does_not_count(folder, monkeypatch):
    """There, orbax writes a checkpoint under its own name, and marks it when it is done."""

    def is_marked(step) -> bool:
        return (step / "commit_success.txt").exists()

    monkeypatch.setattr(ocp.utils, "is_checkpoint_finalized", is_marked)
    assert has_checkpoints(folder)
    for mark in folder.glob("*/commit_success.txt"):
        mark.unlink()
    assert not has_checkpoints(folder)


def test_without_a_whole_one_nothing_starts_anew(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(3))
    (manifest,) = tmp_path.glob("3/default/manifest*")
    manifest.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(
            UserError, match="is damaged and no other is whole: put a copy of it back"
        ):
            with Checkpoints(tmp_path) as checkpoints:
                checkpoints.newest()


def test_if_none_can_be_read_all_stay_as_they_are(folder, monkeypatch):
    """Then the reason may be another than damage, such as another version of orbax."""

    def restore(*_):
        raise ValueError("something new")

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", restore)
    before = sorted(folder.iterdir())
    with Checkpoints(folder) as checkpoints:
        for pick in (checkpoints.newest, checkpoints.best):
            with pytest.raises(UserError, match="is damaged and no other is whole"):
                pick()
    assert sorted(folder.iterdir()) == before


def test_a_full_disk_is_told_and_earlier_checkpoints_are_whole(folder):
    """A limit for the size of files, which anybody may set, stands for the size of the disk."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        message = r"cannot write a checkpoint to .* \(File too large\): mend that or make room"
        with pytest.raises(UserError, match=message):
            with Checkpoints(folder) as checkpoints:
                checkpoints.save(state(5), 1.0)
                checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    with Checkpoints(folder) as checkpoints:
        assert same(checkpoints.newest(), 4)
        checkpoints.save(state(5))
        assert same(checkpoints.newest(), 5)


def test_the_checksum_sees_names_numbers_and_places():
    base = {"a": np.float32([1, 2]), "b": np.float32([3])}
    others = (
        {"a": np.float32([1, 2]), "c": np.float32([3])},
        {"a": np.float32([2, 1]), "b": np.float32([3])},
        {"a": np.float32([1, 2]), "b": {"b": np.float32([3])}},
        {"a": np.float32([1, 2, 3])},
    )
    assert len({checksum(tree) for tree in (base, *others)}) == 5
    assert checksum(base) == checksum(jax.tree.map(np.copy, base))
