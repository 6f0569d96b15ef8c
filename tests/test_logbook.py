import json

import jax
import pytest

from sskd_jax.logbook import Logbook, environment, flatten
from sskd_jax.types import UserError

CONFIG = {"seed": 0, "data": {"mean": (0.5, 0.5, 0.5)}}


def book(workdir, config=CONFIG) -> Logbook:
    made = Logbook(workdir, config, jax.devices())
    made.tensorboard = False
    return made


def test_a_row_is_a_line(tmp_path):
    made = book(tmp_path)
    for step in (3, 6):
        made.write({"stage": "teacher", "step": step, "train/ce": 0.1})
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2
    assert made.rows()[1] == {"stage": "teacher", "step": 6, "train/ce": 0.1}


def test_rewind_forgets_later_rows_of_that_stage_alone(tmp_path):
    made = book(tmp_path)
    for stage in ("teacher", "student"):
        for step in (3, 6, 9):
            made.write({"stage": stage, "step": step})
    made.rewind("student", 6)
    assert [(row["stage"], row["step"]) for row in made.rows()] == [
        ("teacher", 3), ("teacher", 6), ("teacher", 9), ("student", 3), ("student", 6)]


def test_a_changed_config_is_refused_once_something_was_trained(tmp_path):
    book(tmp_path)
    book(tmp_path, {**CONFIG, "seed": 1})  # nothing trained yet: the new config holds
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "stage.json").write_text("{}")
    with pytest.raises(UserError, match="seed was 1, is 0"):
        book(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_environment_says_what_a_figure_needs():
    said = environment(jax.devices())
    assert said["versions"]["jax"] == jax.__version__
    assert len(said["devices"]) == 8 and said["platform"] == "cpu"
    assert all(said["versions"].values())


def test_flatten_names_keys_as_they_are_typed():
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}
