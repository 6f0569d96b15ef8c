import json
import os

import jax
import pytest
from etils import epath

from sskd_jax.types import UserError
from sskd_jax.workdir.logbook import TIMES, Logbook, minutes

CONFIG = {"seed": 0, "data": {"mean": (0.5, 0.5, 0.5)}}


def book(workdir, config=CONFIG) -> Logbook:
    return Logbook(epath.Path(workdir), config, jax.devices())


def test_a_row_is_a_line(tmp_path):
    with book(tmp_path) as made:
        for step in (3, 6):
            made.write({"stage": "teacher", "step": step, "train/ce": 0.1})
        assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2
        assert made.rows()[1] == {"stage": "teacher", "step": 6, "train/ce": 0.1}


def test_minutes_of_a_stage():
    times = [
        {"stage": stage, "step": step, "seconds": 60.0}
        for stage in ("head", "student")
        for step in (4, 8)
    ]
    assert minutes(times, "head") == 2


def test_rewind_forgets_later_rows_of_that_stage_alone(tmp_path):
    with book(tmp_path) as made:
        for stage in ("teacher", "student"):
            for step in (3, 6, 9):
                made.write({"stage": stage, "step": step})
        made.rewind("student", 6)
        assert [(row["stage"], row["step"]) for row in made.rows()] == [
            ("teacher", 3),
            ("teacher", 6),
            ("teacher", 9),
            ("student", 3),
            ("student", 6),
        ]


def test_time_counts_from_where_a_stage_goes_on_and_what_is_trained_again_counts_once(
    tmp_path, monkeypatch
):
    now = iter(
        (0, 100, 110, 130, 1000, 1005, 2000)
    )  # opened, rewound, saved twice, rewound, saved, rewound
    monkeypatch.setattr("sskd_jax.workdir.logbook.time.monotonic", lambda: next(now))
    with book(tmp_path) as made:
        made.rewind("teacher", 0)
        made.saved("teacher", 3)
        made.saved("teacher", 6)
        assert minutes(made.rows(TIMES), "teacher") == (10 + 20) / 60
        made.rewind("teacher", 3)  # the checkpoint of step 6 was lost
        made.saved("teacher", 6)
        assert minutes(made.rows(TIMES), "teacher") == (10 + 5) / 60
        made.rewind("student", 0)
        assert minutes(made.rows(TIMES), "teacher") == (10 + 5) / 60 and not minutes(
            made.rows(TIMES), "student"
        )
        assert made.rows(TIMES)[1] == {
            "stage": "teacher",
            "step": 6,
            "seconds": 5,
            "environment": 0,
        }


def test_a_row_that_was_cut_short_is_forgotten(tmp_path):
    with book(tmp_path) as made:
        for step in (3, 6):
            made.write({"stage": "teacher", "step": step})
        file = tmp_path / "metrics.jsonl"
        whole = file.read_bytes()
        for size in range(len(whole) // 2, len(whole)):  # within the second row
            file.write_bytes(whole[:size])
            made.rewind("teacher", 9)
            assert file.read_bytes() == whole[: len(whole) // 2]


def test_damaged_rows_are_told_and_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("no json\n")
    with book(tmp_path) as made, pytest.raises(UserError, match="metrics.jsonl is damaged"):
        made.rewind("teacher", 0)
    assert (tmp_path / "metrics.jsonl").read_text() == "no json\n"


def trained(workdir) -> None:
    (workdir / "teacher" / "3").mkdir(parents=True)
    (workdir / "teacher" / "stage.json").write_text("{}")


def test_a_changed_config_is_refused_once_something_was_trained(tmp_path):
    with book(tmp_path):
        (tmp_path / "student").mkdir()
        (tmp_path / "student" / "stage.json").write_text("{}")  # stopped at step 0
    with book(tmp_path, {**CONFIG, "seed": 1}):  # nothing trained yet: the new config holds
        pass
    trained(tmp_path)
    with pytest.raises(UserError, match="seed was 1, is 0"), book(tmp_path):
        pass
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_keys_that_change_no_number_may_change(tmp_path):
    with book(tmp_path):
        trained(tmp_path)
    config = {
        **CONFIG,
        "time_limit": 60.0,
        "save_seconds": 1.0,
        "until": "teacher",
        "paper": {"kd": 74.92},
        "data": {**CONFIG["data"], "data_dir": "/elsewhere"},
    }
    with book(tmp_path, config):
        pass
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(json.dumps(config))


def test_a_dtype_may_be_named_but_not_changed(tmp_path):
    with book(tmp_path, {**CONFIG, "dtype": "auto"}):
        trained(tmp_path)
    for dtype in ("auto", "float32", "float32"):
        with book(tmp_path, {**CONFIG, "dtype": dtype}):
            pass
    for dtype in ("auto", "bfloat16"):
        message = f"dtype was float32, is {dtype}"
        with pytest.raises(UserError, match=message), book(tmp_path, {**CONFIG, "dtype": dtype}):
            pass


def test_another_spelling_of_a_path_is_the_same_path(tmp_path):
    with book(tmp_path, {**CONFIG, "teacher": {"checkpoint": "runs/one"}}):
        trained(tmp_path)
    for path in ("runs/one/", "./runs//one", os.path.abspath("runs/one")):
        with book(tmp_path, {**CONFIG, "teacher": {"checkpoint": path}}):
            pass
    with (
        pytest.raises(UserError, match="teacher.checkpoint was /.*runs/one, is runs/on"),
        book(tmp_path, {**CONFIG, "teacher": {"checkpoint": "runs/on"}}),
    ):
        pass


def test_a_key_that_came_later_may_be_empty(tmp_path):
    with book(tmp_path):
        trained(tmp_path)
    later = {**CONFIG, "student": {"start_from": "", "mean": ()}}
    with book(tmp_path, later):
        pass
    later["student"]["start_from"] = "a.pth"
    message = "another config .student.start_from was , is a.pth.:"
    with pytest.raises(UserError, match=message), book(tmp_path, later):
        pass


def compare(**weights: float) -> dict[str, object]:
    """The config of a comparison of methods, by the weight of one of their terms."""
    settings = {name: {"weights": {"kd": weight}} for name, weight in weights.items()}
    return {**CONFIG, "methods": tuple(weights), "settings": settings}


def test_further_methods_may_be_compared_but_none_changed(tmp_path):
    with book(tmp_path, compare(kd=0.9, sskd=0.5)):
        trained(tmp_path)
    with book(tmp_path, compare(sskd=0.5, at=1.0)):
        pass
    with (
        pytest.raises(UserError, match="settings.kd.weights.kd was 0.9, is 0.1"),
        book(tmp_path, compare(kd=0.1)),
    ):
        pass
    stored = json.loads((tmp_path / "config.json").read_text())
    assert set(stored["settings"]) == {"kd", "sskd", "at"}
    assert stored["methods"] == ["kd", "sskd", "at"]


def test_settings_of_methods_that_are_not_compared_may_change(tmp_path):
    """As the quickstart's config has them all."""
    first, then = (compare(kd=0.9, dkd=weight) | {"methods": ("kd",)} for weight in (1.0, 2.0))
    with book(tmp_path, first):
        trained(tmp_path)
    with book(tmp_path, then):
        pass


def test_settings_of_a_trained_method_stay_when_others_are_compared(tmp_path):
    """Also if the config of the others has settings of that method, as the quickstart's has."""
    first, others = compare(kd=0.9, sskd=5.0), compare(sskd=1.0, at=1.0) | {"methods": ("at",)}
    with book(tmp_path, first):
        trained(tmp_path)
    with book(tmp_path, others):
        pass
    with book(tmp_path, first):
        pass
    with (
        pytest.raises(UserError, match="settings.sskd.weights.kd was 5.0, is 1.0"),
        book(tmp_path, compare(kd=0.9, sskd=1.0)),
    ):
        pass


def test_a_further_method_brings_the_sections_of_its_own_stages(tmp_path):
    without, head = compare(kd=0.9), {"head": {"epochs": 6}}
    with book(tmp_path, without):
        trained(tmp_path)
    with book(tmp_path, compare(kd=0.9, sskd=0.5) | head):
        pass
    with book(tmp_path, without):  # what was compared before is remembered
        pass
    changed = compare(kd=0.9, sskd=0.5) | {"head": {"epochs": 7}}
    with pytest.raises(UserError, match="head.epochs was 6, is 7"), book(tmp_path, changed):
        pass


def test_a_comparison_and_a_single_method_do_not_share_a_workdir(tmp_path):
    single, several = {**CONFIG, "weights": {"kd": 0.9}}, compare(kd=0.9)
    told = {"a comparison of methods": (several, single), "one method alone": (single, several)}
    for name, (first, then) in told.items():
        with book(tmp_path / name, first):
            trained(tmp_path / name)
        message = f"holds .*{name}, to which .* --config.teacher.checkpoint={tmp_path / name} to"
        with pytest.raises(UserError, match=message), book(tmp_path / name, then):
            pass


def test_a_workdir_belongs_to_one_process_at_a_time(tmp_path):
    with (
        book(tmp_path),
        pytest.raises(UserError, match="another process trains in"),
        book(tmp_path),
    ):
        pass
    with book(tmp_path):
        pass


def test_a_damaged_config_is_told(tmp_path):
    with book(tmp_path):
        trained(tmp_path)
    (tmp_path / "config.json").write_text("")
    with pytest.raises(UserError, match="config.json is damaged"), book(tmp_path):
        pass


def test_every_environment_that_a_run_was_in_is_kept_once(tmp_path, monkeypatch):
    for version in ("1", "2", "1"):
        monkeypatch.setattr(
            "sskd_jax.workdir.logbook.environment",
            lambda devices, config, version=version: {"version": version},
        )
        with book(tmp_path) as made:
            assert made.environment == int(version) - 1
    assert json.loads((tmp_path / "environments.json").read_text()) == [
        {"version": "1"},
        {"version": "2"},
    ]


def test_own_code_that_changed_since_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    config = CONFIG | {"student": {"model": "my_code_of_today:Net"}}
    said = []
    for code in ("1", "1", "2", "2"):
        (tmp_path / "my_code_of_today.py").write_text(code)
        with book(tmp_path / "run", config) as made:
            made.rewind("teacher", 0)
            made.saved("teacher", 3)
        said.append("code  my_code_of_today changed since" in capsys.readouterr().out)
    assert said == [False, False, True, False]
