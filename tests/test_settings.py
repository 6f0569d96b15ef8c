"""What a config may say: methods with their numbers, the sections that a run looks at."""

import inspect
import typing

import pytest
from ml_collections import ConfigDict

from configs import cifar, cifar_fast, imagenet, named, quickstart
from sskd_jax import rules, settings
from sskd_jax.methods import METHODS
from sskd_jax.rules import BelowOne, Count, Flag, Index, NotNegative, Positive, Rule, Share
from sskd_jax.types import UserError


@pytest.mark.parametrize("name", METHODS)
def test_every_number_of_a_method_is_annotated_with_its_rule(name):
    factory = METHODS[name]
    hints = typing.get_type_hints(factory, include_extras=True)
    found = settings.numbers_of(factory)
    assert list(found) == list(inspect.signature(factory).parameters)
    for number, rule in found.items():
        (annotated,) = [extra for extra in hints[number].__metadata__ if isinstance(extra, Rule)]
        assert rule is annotated, number


@pytest.mark.parametrize("name", METHODS)
def test_the_configs_numbers_fit_their_rules(name):
    numbers = named.method(name).method.to_dict()
    assert numbers.pop("name") == name
    for number, rule in settings.numbers_of(METHODS[name]).items():
        assert rule.fits(numbers.pop(number)), number
    assert not numbers


def test_a_numbers_rule_is_that_of_its_annotation_whatever_its_name():
    def factory(
        *,
        momentum: Positive,
        temperature: NotNegative,
        layer: Share,
        width: BelowOne,
        ratio: Index,
        weight: Count,
        epochs: Flag,
    ): ...

    assert settings.numbers_of(factory) == {
        "momentum": rules.POSITIVE,
        "temperature": rules.NOT_NEGATIVE,
        "layer": rules.SHARE,
        "width": rules.BELOW_ONE,
        "ratio": Index.__metadata__[0],
        "weight": Count.__metadata__[0],
        "epochs": rules.FLAG,
    }


def test_plain_types_have_a_rule_too():
    def factory(*, number: float, count: int, flag: bool, name: str): ...

    found = settings.numbers_of(factory)
    assert found["number"].fits(-1.5) and not found["number"].fits(float("nan"))
    assert found["count"].fits(0) and not found["count"].fits(-1)
    assert found["flag"].fits(False) and not found["flag"].fits(0)
    assert found["name"].fits("kd") and not found["name"].fits(1)


def test_a_methods_own_annotation_is_what_a_value_is_checked_by(monkeypatch):
    """A method that a user registers brings its rules along."""

    def odd(*, temperature: Share):
        return METHODS["kd"](temperature=temperature, standardize=False)

    monkeypatch.setitem(METHODS, "odd", odd)
    config = cifar.get_config("method=kd")
    config.method = {"name": "odd", "temperature": 0.5}
    (recipe,) = settings.check(config)
    assert recipe.name == "odd" and set(recipe.weights) == {"ce", "kd"}
    config.method.temperature = 4.0
    with pytest.raises(UserError, match="method.temperature is 4.0: give a number from 0 to 1"):
        settings.check(config)


def test_a_run_of_one_method_and_one_of_several():
    (alone,) = settings.check(cifar.get_config("method=at"))
    assert (alone.prefix, alone.name) == ("", "at")
    assert alone.weights == {"ce": 1.0, "kd": 0.0, "at": 1000.0}
    recipes = settings.check(cifar.get_config("method=at,at+kd"))
    assert [(recipe.prefix, recipe.name) for recipe in recipes] == [("at/", "at"), ("at+kd/", "at")]
    assert [recipe.weights["kd"] for recipe in recipes] == [0.0, 1.0]


def test_sections_of_stages_that_no_method_has_are_not_looked_at():
    """Scratch trains no teacher, so what is said about one does not matter."""
    config = quickstart.get_config()
    config.methods = ("scratch",)
    config.teacher = {"epochs": 0}
    del config.head
    settings.check(config)
    config.methods = ("scratch", "kd")
    with pytest.raises(UserError, match="teacher.epochs is 0: give a whole number from 1 on"):
        settings.check(config)


def test_a_stage_that_does_not_say_which_images_it_sees():
    config = quickstart.get_config()
    del config.teacher.images
    with pytest.raises(UserError, match="the config lacks the section teacher.images"):
        settings.check(config)


def test_a_stage_whose_network_has_no_architecture():
    config = quickstart.get_config()
    del config.student.model
    message = "the config lacks student.model: give the name of an architecture"
    with pytest.raises(UserError, match=message):
        settings.check(config)
    config = quickstart.get_config()
    config.teacher = dict(config.teacher, model=34)
    with pytest.raises(UserError, match="teacher.model is 34: give text"):
        settings.check(config)


@pytest.mark.parametrize("make", [cifar, cifar_fast, imagenet, quickstart])
def test_every_stage_of_a_config_may_come_from_a_checkpoint(make):
    config = make.get_config()
    kinds = {kind for recipe in settings.check(config) for kind in recipe.method}
    assert {"teacher", "head", "student"} == kinds
    assert all(config[kind].checkpoint == "" for kind in kinds)
    for kind in kinds:
        config[kind].checkpoint = "runs/other"
    settings.check(config)


def test_what_a_run_of_its_own_may_leave_out():
    """A section without `checkpoint` is trained."""
    config = quickstart.get_config()
    del config.student.checkpoint
    settings.check(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.mean": (0.5, 0.5)}, r"data.mean is \(0.5, 0.5\): give three numbers"),
        ({"data.mean": "rgb"}, "data.mean is 'rgb': give three numbers"),
        ({"data.mean": (123.7, 116.3, 103.5)}, "give three numbers from 0 to 1"),
        ({"data.std": (58.4, 57.1, 57.4)}, "give three numbers above 0, 1 at most"),
        ({"data.std": (1.0, 1.0, float("nan"))}, "data.std is .*: give three numbers above 0"),
        ({"student.milestones": (0.5, 0.5)}, "give shares of the epochs that rise between 0 and 1"),
        ({"student.milestones": (0.0,)}, "give shares of the epochs that rise between 0 and 1"),
        ({"student.decay": 2.0}, "student.decay is 2.0: give a number above 0, 1 at most"),
        (
            {"student.epochs": 3, "student.warmup_epochs": 5.0},
            r"warmup_epochs is 5, and student.epochs only 3, .*student.warmup_epochs=0.6, or more",
        ),
        (
            {"student.epochs": 20, "student.warmup_epochs": 12.0, "student.cooldown_epochs": 48.0},
            r"student.warmup_epochs is 12 and student.cooldown_epochs is 48, and student.epochs .*"
            r"give --config.student.warmup_epochs=4 --config.student.cooldown_epochs=16, or more",
        ),
        (
            {"methods": ("ctkd",), "student.epochs": 8, "settings.ctkd.method.ramp_epochs": 9},
            r"settings.ctkd.method.ramp_epochs is 9, .* only 8: .*ctkd.method.ramp_epochs=1, which",
        ),
        ({"student.image": ConfigDict({"share": 0.5})}, "unknown config key 'student.image': did"),
        ({"data.sizes": ConfigDict({"train": 32})}, "unknown config key 'data.sizes'"),
        ({"methods": (1, 2)}, r"methods is \(1, 2\): give different names"),
        ({"student.milestones": (150, 180)}, r"such as \(0.5, 0.75\)"),
        (
            {"student.images.share": 0.0},
            "student.images.share is 0.0: give a number above 0, 1 at most",
        ),
        (
            {"student.images.noise": 1.0},
            "student.images.noise is 1.0: give a number from 0, but below 1",
        ),
        (
            {"head.images.imbalance": 0.01},
            "head.images.imbalance is 0.01: give a number, 1 or more",
        ),
        ({"student.cooldown_epochs": -1.0}, "student.cooldown_epochs is -1.0: give a number, 0"),
        ({"seed": 2**31}, "seed is 2147483648: give 2147483647 at most"),
        ({"methods": "kd"}, "methods is 'kd': give different names"),
    ],
)
def test_values_that_cannot_be(changes, message):
    config = quickstart.get_config()
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        settings.check(config)


@pytest.mark.parametrize(("key", "value"), [("imbalance", 100.0), ("share", 0.25), ("noise", 0.3)])
def test_without_a_teacher_all_stages_have_the_images_of_the_student(key, value):
    config, usual = cifar.get_config("method=ssd_lt"), 0 if key == "noise" else 1
    config.student.images[key] = value
    message = f"features.images.{key} is {usual}, and student.images.{key} {value:g}: give all"
    with pytest.raises(UserError, match=message):
        settings.check(config)
    for stage in ("features", "scales"):
        config[stage].images[key] = value
    settings.check(config)
    taught = cifar.get_config("method=kd")  # by a teacher that may have seen other images
    taught.student.images.imbalance = 100.0
    settings.check(taught)


def test_weights_of_0_alone_are_refused():
    config = cifar.get_config("method=kd")
    config.weights.update(ce=0.0, kd=0.0)
    with pytest.raises(UserError, match="nothing .* as these are 0: weights.ce, weights.kd$"):
        settings.check(config)


def test_weights_are_those_of_the_last_stages_terms():
    config = cifar.get_config()
    weights = config.weights.to_dict()
    config.weights = {"ce": 1.0, "kd": 1.0, "tf": 1.0}
    with pytest.raises(UserError, match="the config lacks weights.ss: give a number, 0 or more"):
        settings.check(config)
    config.weights = weights | {"reconstruction": 1.0}
    with pytest.raises(UserError, match="unknown config key 'weights.reconstruction': choose"):
        settings.check(config)
