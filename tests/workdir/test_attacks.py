"""A workdir that is deleted, mixed up or damaged ends a run in one line and loses nothing."""

import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from sskd_jax.exchange.export import export_network
from sskd_jax.types import UserError
from sskd_jax.workdir import report
from sskd_jax.workdir.checkpoint import Checkpoints
from sskd_jax.workdir.files import read_json, read_rows, write_rows
from sskd_jax.workdir.logbook import Logbook
from sskd_jax.workdir.stages import describe, load_stage

CONFIG = {"seed": 0, "data": {"name": "digits"}}
ROW = {"stage": "teacher", "step": 3}
OTHER_KINDS = ("null", "{}", "[]", "3", '"text"', "[1]", "\xff", "[" * 100_000)


def open_book(workdir, devices: int = 8, dtype: str = "auto") -> Logbook:
    return Logbook(epath.Path(workdir), CONFIG | {"dtype": dtype}, jax.devices()[:devices])


def state(step: int) -> dict[str, np.ndarray]:
    return {"step": np.int32(step), "weights": np.ones(3)}


@pytest.mark.parametrize(
    "write",
    [
        lambda book: book.write(ROW),
        lambda book: book.saved("teacher", 3),
        lambda book: book.rewind("teacher", 3),
        lambda book: report.finish(book, []),
    ],
)
@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_whose_workdir_was_deleted_writes_into_no_other(tmp_path, write, replaced):
    workdir = tmp_path / "run"
    with open_book(workdir) as book:
        shutil.rmtree(workdir)
        other = open_book(workdir) if replaced else None
        before = sorted(workdir.glob("**/*"))
        with pytest.raises(UserError, match="run was deleted or replaced while this run trained"):
            write(book)
        assert sorted(workdir.glob("**/*")) == before
        if other:
            other.write(ROW)
            assert other.rows() == [ROW]
            other.__exit__()


@pytest.mark.parametrize("replaced", [False, True])
def test_no_checkpoint_is_written_into_another_runs_folder(tmp_path, replaced):
    folder = tmp_path / "teacher"
    folder.mkdir()
    with pytest.raises(UserError, match="teacher was deleted or replaced"):
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(state(1))
            checkpoints.wait()
            shutil.rmtree(folder)
            if replaced:
                folder.mkdir()
            checkpoints.save(state(2))
    assert folder.exists() == replaced and (not replaced or not list(folder.iterdir()))


@pytest.mark.parametrize("name", ["config.json", "environments.json"])
@pytest.mark.parametrize("content", ["", *OTHER_KINDS])
def test_what_can_be_made_anew_is_deleted_alone(tmp_path, name, content):
    with open_book(tmp_path):
        describe(tmp_path / "teacher", {})
        (tmp_path / "teacher" / "3").mkdir()
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=f"{name} is damaged") as error, open_book(tmp_path):
        pass
    assert "this file alone" in str(error.value) and "folder" not in str(error.value)
    (tmp_path / name).unlink()
    with open_book(tmp_path):
        assert (tmp_path / name).stat().st_size > 10


@pytest.mark.parametrize("content", ["", *OTHER_KINDS])
def test_a_stage_of_another_kind(tmp_path, content):
    describe(tmp_path / "teacher", {})
    (tmp_path / "teacher" / "stage.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match="stage.json is damaged .* or delete its folder"):
        load_stage(tmp_path, "teacher", {})


@pytest.mark.parametrize("content", ["null", "{}", "[]", "3", '{"stage": 1, "step": 3}', "\xff"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "times.jsonl"])
def test_rows_of_another_kind(tmp_path, name, content):
    (tmp_path / name).write_text(content + "\n", encoding="latin-1")
    with pytest.raises(UserError, match=f"{name} is damaged .*the checkpoints are kept"):
        read_rows(tmp_path / name)


@pytest.mark.parametrize("content", ["", "null", "{}", "[]", "[1]"])
def test_results_of_another_kind(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match="results.json is damaged .*writes it anew"):
        read_json(tmp_path / "results.json")


def test_beside_a_file_of_the_users_nothing_else_is_to_be_deleted(tmp_path):
    (tmp_path / "resnet8.pth.json").write_text("{")
    with pytest.raises(UserError, match="pth.json is damaged .* or delete this file alone"):
        read_json(tmp_path / "resnet8.pth.json")


def test_a_key_that_is_missing_is_told_with_its_file(tmp_path):
    (tmp_path / "config.json").write_text('{"data": {"name": "digits"}}')
    with pytest.raises(UserError, match="config.json is damaged .it lacks 'mean'"):
        read_json(tmp_path / "config.json")["data"]["mean"]


@pytest.mark.parametrize("missing", ["config.json", "stage.json"])
def test_export_from_a_folder_without_a_file(tmp_path, missing):
    about = {"student_model": "resnet8", "num_classes": 10, "image": [8, 8, 3], "steps": 3}
    describe(tmp_path / "student", about)
    if missing == "stage.json":
        (tmp_path / "config.json").write_text(json.dumps(CONFIG))
        (tmp_path / "student" / "stage.json").write_text(
            '{"format": 2, "student_model": "resnet8"}'
        )
    with pytest.raises(UserError, match=missing):
        export_network(str(tmp_path), "pth")


def test_a_file_where_the_folder_of_figures_should_be(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(UserError, match="tensorboard is a file .*rename or delete it"):
        open_book(tmp_path)


def test_another_number_of_devices_is_told_once_something_was_trained(tmp_path, capsys):
    with open_book(tmp_path):
        pass
    with open_book(tmp_path, devices=4) as book:
        book.saved("teacher", 3)
    assert "devices" not in capsys.readouterr().out
    with open_book(tmp_path, devices=4):
        pass
    assert "devices" not in capsys.readouterr().out
    with open_book(tmp_path, devices=2):
        pass
    assert "devices  2 in place of 4 before: from here on" in capsys.readouterr().out


@pytest.mark.parametrize("before", [{"platform": "gpu"}, {"devices": ["T4"]}])
def test_devices_of_another_kind_are_told(before, tmp_path, capsys):
    with open_book(tmp_path) as book:
        book.saved("teacher", 3)
    file = tmp_path / "environments.json"
    (here,) = json.loads(file.read_text())
    was = here | before
    file.write_text(json.dumps([was]))
    with open_book(tmp_path):
        pass
    told = f"devices  cpu (cpu) in place of {was['platform']} ({was['devices'][0]}) before: from"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("key", ["platform", "devices", "versions"])
def test_an_environment_without_a_key_is_damaged(tmp_path, key):
    with open_book(tmp_path) as book:
        book.saved("teacher", 3)
    file = tmp_path / "environments.json"
    (here,) = json.loads(file.read_text())
    file.write_text(json.dumps([{name: here[name] for name in here.keys() - {key}}]))
    with pytest.raises(UserError, match=f"environments.json is damaged .it lacks '{key}'"):
        with open_book(tmp_path):
            pass


@pytest.mark.parametrize("name", ["python", "jax"])
def test_other_versions_are_told(name, tmp_path, capsys):
    with open_book(tmp_path) as book:
        book.saved("teacher", 3)
    file = tmp_path / "environments.json"
    (here,) = json.loads(file.read_text())
    was = here | {"python": "3.0"} if name == "python" else here
    was["versions"] |= {"jax": "0.1"} if name == "jax" else {}
    file.write_text(json.dumps([was]))
    with open_book(tmp_path):
        pass
    told = f"versions  {name} {here[name] if name == 'python' else jax.__version__} in place of "
    assert told in capsys.readouterr().out


def test_another_dtype_is_told_whether_it_was_named_or_came_with_the_devices(tmp_path, capsys):
    with open_book(tmp_path) as book:
        book.saved("teacher", 3)
    with open_book(tmp_path, dtype="bfloat16") as book:
        told = "dtype  bfloat16 on cpu (cpu) in place of float32 on cpu (cpu) before: from here on"
        assert told in capsys.readouterr().out
        book.saved("teacher", 6)
    with open_book(tmp_path, dtype="bfloat16"):
        assert "in place of" not in capsys.readouterr().out
    file = tmp_path / "environments.json"
    first, last = json.loads(file.read_text())
    file.write_text(json.dumps([first, last | {"dtype": "float32", "platform": "gpu"}]))
    with open_book(tmp_path, dtype="bfloat16"):
        told = "dtype  bfloat16 on cpu (cpu) in place of float32 on gpu (cpu) before: from here on"
        assert told in capsys.readouterr().out


def test_places_of_environments_that_were_deleted_are_not_given_away(tmp_path):
    for devices in (1, 2):
        with open_book(tmp_path, devices) as book:
            book.saved("teacher", devices)
    (tmp_path / "environments.json").unlink()
    with open_book(tmp_path, devices=4) as book:
        assert book.environment == 2
    environments = json.loads((tmp_path / "environments.json").read_text())
    assert [one["devices"][0] for one in environments] == ["unknown", "unknown", "cpu"]


@pytest.mark.parametrize("name", ["00", "01", "٣", "007"])
def test_other_names_made_of_digits_are_no_checkpoints(tmp_path, name):
    (tmp_path / name).mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest() is None
        checkpoints.save(state(1))
        assert int(checkpoints.newest()["step"]) == 1
    assert (tmp_path / name).is_dir()


def test_digits_that_orbax_would_take_for_a_step_are_refused(tmp_path):
    (tmp_path / "1٣").mkdir()
    with pytest.raises(UserError, match="is no checkpoint of ours: move it elsewhere"):
        Checkpoints(tmp_path)


@pytest.mark.parametrize("name", ["[red]", "what?", "all*"])
def test_names_that_are_patterns_are_refused_before_training(tmp_path, name):
    with pytest.raises(UserError, match="with which no checkpoint can be read") as error:
        open_book(tmp_path / name)
    assert name in str(error.value) and not (tmp_path / name).exists()


def test_the_path_of_another_run_that_is_a_pattern_is_told(tmp_path):
    describe(tmp_path / "[1]" / "teacher", {"steps": 1})
    with pytest.raises(UserError, match="has a .* in it, with which no checkpoint can be read"):
        load_stage(tmp_path / "[1]", "teacher", {})


EPOCHS = [
    {"stage": "teacher", "epoch": epoch, "step": 3 * epoch, "train/loss": 1 / epoch, "test/top1": x}
    for epoch, x in enumerate((0.25, 0.5, 0.375), 1)
]


def test_no_bit_of_a_row_can_change_unnoticed(tmp_path):
    path = epath.Path(tmp_path / "metrics.jsonl")
    write_rows(path, EPOCHS)
    assert read_rows(path) == EPOCHS
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        spoiled = bytearray(whole)
        spoiled[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(spoiled))
        try:
            found = read_rows(path)
        except UserError as error:
            assert "metrics.jsonl is damaged" in str(error)
        else:  # what is cut short is missed elsewhere: see below
            assert found == EPOCHS or found == EPOCHS[:2] and bit // 8 == len(whole) - 1


def test_rows_of_earlier_versions_have_no_checksum(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in EPOCHS)
    (tmp_path / "metrics.jsonl").write_text(lines)
    assert read_rows(tmp_path / "metrics.jsonl") == EPOCHS


@pytest.mark.parametrize("value", ["0.5", None, [0.5], {}])
def test_a_score_is_a_number(tmp_path, value):
    row = EPOCHS[0] | {"test/top1": value}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="line 1 has .* as its test/top1.: mend or delete"):
        read_rows(tmp_path / "metrics.jsonl")


def test_the_rows_of_a_stage_that_is_trained_again_keep_their_place(tmp_path):
    with open_book(tmp_path) as book:
        for stage in ("teacher", "kd/student"):
            for row in EPOCHS:
                book.write(row | {"stage": stage})
        before = (tmp_path / "metrics.jsonl").read_bytes()
        book.rewind("teacher", 6)
        book.write(EPOCHS[2])
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_rows_that_are_lost_are_told(tmp_path, capsys):
    with open_book(tmp_path) as book:
        for row in EPOCHS[:2]:
            book.write(row)
        book.tell_missing("teacher", 8, 2)
        assert not capsys.readouterr().out
        book.tell_missing("teacher", 9, 3)
        book.tell_missing("kd/student", 9, 3)
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "teacher  metrics.jsonl lacks 1 of 3 epochs: they are in no curve",
        "kd/student  metrics.jsonl lacks 3 of 3 epochs: they are in no curve",
    ]


def test_the_rows_know_whether_a_checkpoint_is_the_best(tmp_path):
    with open_book(tmp_path) as book:
        for row in EPOCHS:
            book.write(row)
            book.write(row | {"stage": "ab/warmup", "test/top1": 1.0})
        assert [book.is_best("teacher", step) for step in (3, 6, 9)] == [False, True, False]
        assert book.is_best("teacher", 12) and book.is_best("kd/student", 3)  # no row tells
