"""What a config says was done: networks that differ in their seed alone share an experiment."""

import pytest

from experiments import protocol
from sskd_jax.types import UserError

KD, SSKD, SCRATCH = (f"configs/cifar.py:method={name}" for name in ("kd", "sskd", "scratch"))


def described(name: str, stage: str = "student", **changes) -> dict:
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return protocol.describe(protocol.as_json(protocol.load(name, given)), stage)


def experiment(name: str, stage: str = "student", **changes) -> str:
    return described(name, stage, **changes)["experiment"]


@pytest.mark.parametrize(
    "harmless",
    [
        {"seed": 3},
        {"data__data_dir": "elsewhere"},
        {"time_limit": 9.0, "save_seconds": 1.0},
        {"teacher__checkpoint": "runs/teacher"},  # a workdir: as good as training it here
        {"student__learning_rate": 0.05, "student__epochs": 240},  # as they are
    ],
)
def test_what_decides_nothing_parts_nothing(harmless):
    assert experiment(KD, **harmless) == experiment(KD)


@pytest.mark.parametrize(
    "change",
    [
        {"student__epochs": 60},
        {"student__images__share": 0.5},
        {"teacher__images__noise": 0.3},
        {"teacher__checkpoint": "weights/wrn_40_2.pth"},
        {"student__start_from": "runs/kd"},
        {"teacher__mean": (0.5, 0.5, 0.5)},
        {"method__temperature": 2.0},
        {"weights__kd": 0.5},
        {"data__validation": 0.1},
        {"dtype": "bfloat16"},
    ],
)
def test_what_decides_something_parts_experiments(change):
    assert experiment(KD, **change) != experiment(KD)


def test_the_folder_of_a_file_decides_nothing():
    for key in ("student__start_from", "teacher__checkpoint"):
        one, other = (experiment(KD, **{key: f"{folder}/x.pth"}) for folder in ("/a", "/b/c"))
        assert one == other
    one, other = (experiment(KD, student__start_from=f"runs/{name}/kd") for name in ("a", "b"))
    assert one != other


def test_given_teachers_with_other_pixels_part_experiments():
    given = {"teacher__checkpoint": "weights/wrn_40_2.pth"}
    assert experiment(KD, **given, teacher__mean=(0.5, 0.5, 0.5)) != experiment(KD, **given)


def test_methods_differ_and_a_comparison_is_the_same_as_each_alone():
    both = "configs/cifar.py:method=scratch,kd,sskd"
    alone = [experiment(name) for name in (SCRATCH, KD, SSKD)]
    assert len(set(alone)) == 3
    names = ("scratch", "kd", "sskd")
    assert [experiment(both, f"{name}/student") for name in names] == alone
    assert experiment(both, "teacher") == experiment(KD, "teacher") not in alone


def test_training_from_scratch_has_no_teacher():
    changed = {"teacher__epochs": 3, "teacher__checkpoint": "a.pth"}
    assert experiment(SCRATCH, **changed) == experiment(SCRATCH)
    assert described(SCRATCH)["teacher"] == described(SCRATCH)["before"] == ""


def test_a_stored_config_of_yesterday_in_todays_words():
    today = protocol.as_json(protocol.load(KD, {"student.images.share": 0.25}))
    yesterday = {name: section for name, section in today.items()}
    for name, share in (("teacher", 1.0), ("student", 0.25)):
        section = {key: value for key, value in today[name].items() if key != "images"}
        milestones = [150, 180, 210]  # of 240 epochs
        yesterday[name] = section | {"fraction": share, "milestones": milestones}
    assert protocol.describe(yesterday, "student") == protocol.describe(today, "student")


def test_a_teacher_of_a_methods_own_is_told_from_the_others():
    joint = "configs/cifar.py:method=hsakd_joint"
    assert described(KD, "teacher")["method"] == "labels"
    assert described(joint, "teacher")["method"] == "hsakd_joint"
    assert experiment(KD, "teacher") != experiment(joint, "teacher")


def test_what_is_told_in_words():
    told = described(
        SSKD,
        weights__ss=0.0,
        method__tf_ratio=0.5,
        head__epochs=3,
        head__images__share=0.5,
        teacher__checkpoint="some/where/wrn.pth",
        data__validation=0.1,
    )
    assert told["method"] == "sskd" and told["changes"] == "tf_ratio 0.5, ss 0.0"
    assert told["before"] == "teacher wrn.pth; head 3 epochs, share 0.5"
    started = described(KD, student__start_from="runs/kd", teacher__start_from="old/wrn.pth")
    assert started["before"] == "teacher 240 epochs, from wrn.pth; student from kd"
    assert told["selection"] == "0.1 of the training images"
    assert described("configs/cifar.py:method=at+kd")["method"] == "at+kd"
    assert described("configs/cifar.py:method=at")["method"] == "at"


def test_a_method_that_ends_with_another_stage_than_the_students():
    config = protocol.as_json(protocol.load("configs/long_tail.py:method=crt,student=resnet8", {}))
    assert protocol.last_stage(config) == "crt/classifier"
    told = protocol.describe(config, "crt/classifier")
    assert told["before"] == "student 200 epochs, imbalance 100"
    assert (told["network"], told["teacher"], told["epochs"]) == ("resnet8", "", 10)
    student = protocol.describe(config, "crt/student")
    assert (student["before"], student["epochs"]) == ("", 200)
    assert student["experiment"] == protocol.identify(config, "crt/student") != told["experiment"]


@pytest.mark.parametrize(
    ("config", "stage", "section"),
    [
        ("configs/cifar.py:method=hssakd", "student", "teacher"),  # of its peer
        ("configs/long_tail.py:method=ssd_lt", "ssd_lt/features", "student"),
    ],
)
def test_a_network_that_no_stage_is_named_after_makes_another_experiment(config, stage, section):
    found = {
        protocol.identify(protocol.as_json(protocol.load(config, changes)), stage)
        for changes in ({}, {f"{section}.model": "resnet8"}, {f"{section}.epochs": 7})
    }
    assert len(found) == 2  # how that section would be trained has no effect
    hssakd = described("configs/cifar.py:method=hssakd,teacher=resnet8,student=resnet20")
    assert (hssakd["teacher"], hssakd["network"]) == ("resnet8", "resnet20")


def test_mistakes():
    with pytest.raises(UserError, match="student.epoch"):
        protocol.load(KD, {"student.epoch": 3})
    with pytest.raises(UserError, match="--config=configs/nowhere.py"):
        protocol.load("configs/nowhere.py", {})
