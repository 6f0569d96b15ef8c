"""A flag or a key that there is not: the line says what to type."""

import pytest
from absl import flags
from ml_collections import ConfigDict

from sskd_jax.system import hints

CONFIG = ConfigDict(
    {
        "seed": 0,
        "methods": ("kd", "sskd"),
        "settings": {name: {"weights": {"kd": 1.0}} for name in ("ab", "kd", "sskd")},
        "teacher": {"model": "resnet20", "epochs": 12, "learning_rate": 0.05},
        "head": {"epochs": 6, "learning_rate": 0.05},
        "student": {"epochs": 40, "learning_rate": 0.05, "images": {"share": 0.1}},
    }
)
ALL = " (or of teacher, head in place of student)"
NONE = f": write --config.SECTION.KEY=VALUE; {hints.LISTS}"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("epochs", f": type --config.student.epochs=2{ALL}"),
        ("student.epochs", ": type --config.student.epochs=2"),
        ("teacher.epoch", ": type --config.teacher.epochs=2"),
        ("studnt.epochs", f": type --config.student.epochs=2{ALL}"),
        ("lr", f": type --config.student.learning_rate=2{ALL}"),
        ("head.lr", ": type --config.head.learning_rate=2"),
        ("learning-rate", f": type --config.student.learning_rate=2{ALL}"),
        ("student.share", ": type --config.student.images.share=2"),
        ("seed", ": type --config.seed=2"),
        ("weights.kd", ": type --config.settings.kd.weights.kd=2"),
        ("student.colour", NONE),
        ("teacher", ": type --config.teacher.model=2"),
    ],
)
def test_the_likeliest_key(name, hint):
    assert hints.what_to_type(CONFIG, name, "2") == hint


def test_an_unknown_flag_and_an_unknown_key(tmp_path):
    file = tmp_path / "config.py"
    file.write_text("def get_config(epochs):\n    return {'student': {'epochs': int(epochs)}}\n")
    argv = ["main.py", f"--config={file}:3", "--epochs=2"]
    said = hints.reason(flags.UnrecognizedFlagError("epochs"), argv)
    assert said == "unknown flag 'epochs': type --config.student.epochs=2"
    argv[-1] = "--config.student.epoch=2"
    said = hints.reason(ValueError(KeyError("'epoch'")), argv)
    assert said == "unknown config key 'student.epoch': type --config.student.epochs=2"
    argv[-1:] = ["--config.student.epochs=2", "--config.epochs=3"]
    said = hints.reason(ValueError(KeyError("'epochs'")), argv)
    assert said == "unknown config key 'epochs': type --config.student.epochs=3"
    said = hints.reason(flags.UnrecognizedFlagError("epochs"), ["main.py"])
    assert said == f"unknown flag 'epochs'{NONE}"


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("epochs", "1e2", "give a whole number, such as 40"),
        ("rate", "a: b", "give a number, such as 0.5"),
        ("cosine", "maybe", "give True or False"),
        ("images", "3", "student.images is a section, write --config.student.images.KEY=VALUE;"),
    ],
)
def test_a_value_of_another_type(key, value, hint, tmp_path):
    file = tmp_path / "config.py"
    student = {"epochs": 40, "rate": 0.5, "cosine": False, "images": {"share": 1.0}}
    file.write_text(f"def get_config():\n    return {{'student': {student}}}\n")
    flag = f"--config.student.{key}={value}"
    error = flags.IllegalFlagValueError(f"flag {flag}: wrong: type")
    error.__context__ = ValueError("wrong: type")
    assert hints.reason(error, ["main.py", f"--config={file}", flag]).startswith(f"{flag}: {hint}")
    assert hints.reason(error, ["main.py"]) == str(error)  # the config can't be had


def test_a_key_goes_before_what_absl_suggests(tmp_path):
    file = tmp_path / "config.py"
    file.write_text("def get_config():\n    return {'student': {'model': 'resnet8'}}\n")
    error = flags.UnrecognizedFlagError("student", suggestions=["stderrthreshold"])
    said = hints.reason(error, ["main.py", f"--config={file}", "--student=resnet20"])
    assert said == "unknown flag 'student': type --config.student.model=resnet20"


@pytest.mark.parametrize("flag", [["--method=kd"], ["--method", "kd"]])
def test_an_argument_of_the_config_file(tmp_path, flag):
    file = tmp_path / "config.py"
    refuses = "    assert not arguments or arguments.split('=')[0] == 'method'\n"
    for taken, hint in {refuses: f": type --config={file}:method=kd", "": NONE}.items():
        file.write_text(f"def get_config(arguments=None):\n{taken}    return {{'seed': 0}}\n")
        said = hints.reason(flags.UnrecognizedFlagError("method"), [f"--config={file}", *flag])
        assert said == f"unknown flag 'method'{hint}"


def test_a_plus_elsewhere_than_in_a_key_is_no_mistake(tmp_path):
    file = tmp_path / "config.py"
    file.write_text("def get_config():\n    return {'student': {'epochs': 1}}\n")
    argv = ["main.py", f"--config={file}", "--workdir", "runs/at+kd", "--epochs=2"]
    said = hints.reason(flags.UnrecognizedFlagError("epochs"), argv)
    assert said == "unknown flag 'epochs': type --config.student.epochs=2"


def test_flags_that_are_nearly_right_are_told_by_absl():
    error = flags.UnrecognizedFlagError("wrkdir", suggestions=["workdir"])
    assert hints.reason(error, ["main.py", "--wrkdir=x"]).endswith("Did you mean: workdir ?")
