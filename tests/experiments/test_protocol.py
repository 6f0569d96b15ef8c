"""What a config says was done: networks that differ in their seed alone share an experiment."""

import pytest

from configs import methods
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


def test_views_and_costs():
    """A student's step costs three forward passes of it and one of its teacher, per view."""
    student, teacher = (protocol.forward(name, "", 32, 100) for name in ("wrn_16_2", "wrn_40_2"))
    seen = 240 * (50_000 // 64) * 64  # of an epoch, whole batches
    assert described(SCRATCH)["views"] == described(KD)["views"] == 1
    assert described(SSKD)["views"] == 4
    assert described(SCRATCH)["teraflop"] == pytest.approx(seen * 3 * student / 1e12, abs=1e-3)
    kd = seen * (3 * student + teacher) / 1e12
    assert described(KD)["teraflop"] == pytest.approx(kd, abs=1e-3)
    head = 4 * 60 * (50_000 // 64) * 64 * teacher / 1e12
    assert described(SSKD)["teraflop"] == pytest.approx(4 * kd + head, abs=2e-3)
    half = described(KD, student__images__share=0.5)["teraflop"]
    assert half == pytest.approx(kd / 2, rel=0.01)
    tail = described(KD, student__images__imbalance=100)["teraflop"]
    assert tail == pytest.approx(kd * 10_847 / 50_000, rel=0.01)


def test_stored_images_count_as_views():
    """What a step draws from a buffer, and what it turns, runs through the network as well."""
    stream = "configs/continual.py:dataset=cifar100,student=resnet8,epochs=3,method="
    views = {name: described(stream + name, f"{name}/student") for name in ("finetune", "coca")}
    assert [told["views"] for told in views.values()] == [1, 5]
    # An epoch visits the images of its task alone.
    seen, own = 30 * (5000 // 32) * 32, protocol.forward("resnet8", "", 32, 100)
    assert views["finetune"]["teraflop"] == pytest.approx(seen * 3 * own / 1e12, abs=1e-3)
    assert views["coca"]["teraflop"] == pytest.approx(5 * seen * 3 * own / 1e12, abs=1e-3)


def test_every_method_has_views_and_costs():
    """Else its runs could be trained, and not be recorded."""
    views = {}
    for name in methods.METHODS:
        config = f"configs/cifar.py:teacher=resnet20,student=resnet8,method={name}"
        config = protocol.as_json(protocol.load(config, {}))
        told = protocol.describe(config, protocol.last_stage(config))
        assert told["teraflop"] > 0
        views[name] = told["views"]
    assert (views["ctkd"], views["mlkd"], views["hssakd"], views["coca"]) == (1, 2, 4, 3.5)


def test_a_method_that_ends_with_another_stage_than_the_students():
    config = protocol.as_json(protocol.load("configs/long_tail.py:method=crt,student=resnet8", {}))
    assert protocol.last_stage(config) == "crt/classifier"
    told = protocol.describe(config, "crt/classifier")
    assert told["before"] == "student 200 epochs, imbalance 100"
    assert (told["network"], told["teacher"], told["epochs"]) == ("resnet8", "", 10)
    student = protocol.describe(config, "crt/student")
    assert (student["before"], student["epochs"]) == ("", 200)
    assert student["experiment"] == protocol.identify(config, "crt/student") != told["experiment"]


def test_mistakes():
    with pytest.raises(UserError, match="student.epoch"):
        protocol.load(KD, {"student.epoch": 3})
    with pytest.raises(UserError, match="--config=configs/nowhere.py"):
        protocol.load("configs/nowhere.py", {})
