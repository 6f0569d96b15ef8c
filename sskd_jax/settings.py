"""Which keys and values a config may have, checked before anything is loaded."""

import inspect
import itertools
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sskd_jax.methods import METHODS
from sskd_jax.rules import (
    BELOW_ONE,
    FLAG,
    MEAN,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    SIDE,
    STD,
    TEXT,
    Rule,
    counts_epochs,
    is_number,
    is_sequence,
    number,
    whole,
)
from sskd_jax.types import Method, UserError, blamed, choose, find


class Recipe(NamedTuple):
    """A method of this run.

    Attributes:
      prefix: of its folders: "" for the only one, "kd/" for one of several.
      name: in the registry.
      method: its stages.
      weights: of the terms of its last stage; those of the others count 1.
      numbers: with which its factory was called.
    """

    prefix: str
    name: str
    method: Method
    weights: Mapping[str, float]
    numbers: Mapping[str, Any] = {}

    def weights_of(self, kind: str) -> Mapping[str, float]:
        """The weights of the terms of one of its stages."""
        *_, last = self.method
        return self.weights if kind == last else dict.fromkeys(self.method[kind].terms, 1.0)


def span(fits: Callable[[Any], bool], text: str) -> Rule:
    """A rule for two numbers, of which the first is not the larger."""

    def fit(value: Any) -> bool:
        is_pair = is_sequence(value) and len(value) == 2 and all(map(fits, value))
        return is_pair and value[0] <= value[1]

    return Rule(fit, text)


def or_datas(rule: Rule, none: Any) -> Rule:
    """A rule for a network's own value, or `none` for that of the data."""

    def fit(value: Any) -> bool:
        return rule.fits(value) or (tuple(value) if is_sequence(value) else value) == none

    return rule._replace(fits=fit, text=f"{rule.text}, or {none} for the data's")


def are_rising_shares(value: Any) -> bool:
    """Whether it is a sequence of numbers above 0 and below 1, each above the one before."""
    is_numbers = is_sequence(value) and all(map(is_number, value))
    return is_numbers and all(low < high for low, high in itertools.pairwise((0, *value, 1)))


def are_names(value: Any) -> bool:
    """Whether it is a sequence of at least one name, all of them different."""
    is_texts = is_sequence(value) and all(isinstance(name, str) for name in value)
    return is_texts and len(value) == len(set(value)) > 0


EPOCHS = 10_000  # the largest number of epochs, as steps are counted in 32 bits

RUN = {
    "seed": whole(0),
    "seeds": whole(1, 1000),
    "dtype": TEXT,
    "time_limit": NOT_NEGATIVE,
    "until": TEXT,
    "save_seconds": NOT_NEGATIVE,
}
DATA = {
    "name": TEXT,
    "data_dir": TEXT,
    "flip": FLAG,
    "pad": whole(0, 256),
    "validation": BELOW_ONE,
    "mean": MEAN,
    "std": STD,
}
STREAMING = {
    "test_split": TEXT,
    "size": SIDE,
    "resize": SIDE,
    "scale": span(PART.fits, "two numbers above 0, 1 at most, not falling"),
    "ratio": span(POSITIVE.fits, "two numbers above 0, not falling")._replace(
        least=1e-3, most=1000
    ),
}
STAGE = {
    "epochs": whole(1, EPOCHS),
    "batch_size": whole(2),
    "learning_rate": POSITIVE,
    "decay": PART,
    "warmup_epochs": NOT_NEGATIVE._replace(most=EPOCHS),
    "cooldown_epochs": NOT_NEGATIVE._replace(most=EPOCHS),
    "weight_decay": NOT_NEGATIVE,
    "momentum": BELOW_ONE,
    "nesterov": FLAG,
    "milestones": Rule(
        are_rising_shares, "shares of the epochs that rise between 0 and 1, such as (0.5, 0.75)"
    ),
    "cosine": FLAG,
}
IMAGES = {  # of a stage: see data/scenarios.py
    "share": PART,
    "noise": BELOW_ONE,
    "imbalance": number(lambda value: value >= 1, "a number, 1 or more"),
}
PLACE = TEXT._replace(text="a workdir, or a .pth or .safetensors file; '' for none")
OF_SOME_STAGES = {
    "model": TEXT,
    "mean": or_datas(DATA["mean"], ()),
    "std": or_datas(DATA["std"], ()),
    "size": or_datas(STREAMING["size"], 0),
    "checkpoint": PLACE,
    "start_from": PLACE,
}
NAMES = Rule(are_names, "different names")
BY_TYPE = {float: number(lambda value: True, "a number"), int: whole(0), bool: FLAG, str: TEXT}
NO_STAGE = ("data", "method", "weights", "settings", "paper")  # the sections that are no stage's


def check(config: ConfigDict) -> list[Recipe]:
    """Checks all keys and values that the run takes from `config`; returns its methods.

    Raises:
      UserError: a key is missing or unknown, or its value is not allowed.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"the config is a {type(config).__name__}: give the ConfigDict of a config file, such "
            "as configs.quickstart.get_config()"
        )
    check_keys("", config, RUN, allowed=("methods", *NO_STAGE))
    data = section(config, "data")
    check_keys("data.", data, DATA | (STREAMING if "size" in data else {}))
    if "size" in data and data.size > data.resize:
        raise UserError(
            f"data.size is {data.size}, and test images are only resized to data.resize="
            f"{data.resize} before their centre is cut out: give --config.data.resize={data.size} "
            "or more"
        )
    recipes = [recipe(prefix, setting) for prefix, setting in settings(config).items()]
    for name in {kind: None for own in recipes for kind in own.method}:
        stage = section(config, name)
        check_keys(f"{name}.", stage, STAGE | given(stage), allowed=("images",))
        check_keys(f"{name}.images.", section(stage, "images", f"{name}."), IMAGES)
        check_schedule(name, stage)
    for own in recipes:
        check_images(config, own)
        check_counted(config, own)
    for name in networks(recipes):
        if "model" not in section(config, name):
            raise UserError(f"the config lacks {name}.model: give the name of an architecture")
    return recipes


def check_images(config: ConfigDict, recipe: Recipe) -> None:
    """Refuses other images in some stages than in others of a method that has no teacher.

    These would learn from images or labels that its student is to do without.
    """
    if "teacher" in recipe.method:
        return
    *_, last = recipe.method
    own = "student" if "student" in recipe.method else last
    for kind in recipe.method:
        for key in IMAGES:
            here, there = config[kind].images[key], config[own].images[key]
            if here != there:
                raise UserError(
                    f"{kind}.images.{key} is {here:g}, and {own}.images.{key} {there:g}: give all "
                    f"stages one, as with --config.{kind}.images.{key}={there:g}"
                )


def check_counted(config: ConfigDict, recipe: Recipe) -> None:
    """Refuses a number of a method that counts more epochs than the method's last stage has.

    Streams of tasks check the epochs of a task themselves.
    """
    *_, last = recipe.method
    epochs = config[last].epochs
    usual = 90 if "size" in config.data else 240  # in configs/imagenet.py, in configs/cifar.py
    for name, counted in recipe.numbers.items():
        if counts_epochs(name, counted) and counted > epochs:
            key = f"{place(recipe.prefix)}method.{name}"
            scaled = min(epochs, -(-counted * epochs // usual))
            raise UserError(
                f"{key} is {counted}, and {last}.epochs only {epochs}: give "
                f"--config.{key}={scaled}, which is scaled from {usual} epochs, or more epochs"
            )


def check_schedule(name: str, stage: Mapping[str, Any]) -> None:
    """Raises a `UserError` if a stage's epochs are over before the learning rate is reached."""
    moving = {
        f"{key}_epochs": (stage[f"{key}_epochs"], share * stage.epochs)
        for key, share in (("warmup", 0.2), ("cooldown", 0.8))
        if stage[f"{key}_epochs"]
    }
    if sum(epochs for epochs, _ in moving.values()) > (1 + 1e-6) * stage.epochs:
        told = " and ".join(f"{name}.{key} is {epochs:g}" for key, (epochs, _) in moving.items())
        advice = " ".join(f"--config.{name}.{key}={own:g}" for key, (_, own) in moving.items())
        raise UserError(
            f"{told}, and {name}.epochs only {stage.epochs}, so the learning rate would never be "
            f"reached: give {advice}, or more epochs"
        )


def networks(recipes: Sequence[Recipe]) -> dict[str, None]:
    """The sections that nets name as their architectures, in order."""
    stages = [stage for recipe in recipes for stage in recipe.method.values()]
    sections = [net.place[0] for stage in stages for net in stage.nets.values()]
    return {section: None for section in sections if section}


def given(stage: ConfigDict) -> dict[str, Rule]:
    """The rules for those keys of `OF_SOME_STAGES` that this stage has."""
    return {key: rule for key, rule in OF_SOME_STAGES.items() if key in stage}


def section(config: Mapping[str, Any], name: str, where: str = "") -> Mapping[str, Any]:
    """The section `name` of a config; raises a `UserError` if it is missing."""
    if not isinstance(config.get(name), ConfigDict):
        raise UserError(
            f"the config lacks the section {where}{name}: configs/cifar.py shows what belongs there"
        )
    return config[name]


def check_keys(
    where: str,
    values: Mapping[str, Any],
    rules: Mapping[str, Rule],
    allowed: Collection[str] = (),
) -> None:
    """Checks that every key in `rules` is there and fits, and that any other is `allowed`.

    The config itself (`where` is "") may have any sections, which may be those of other methods.
    """
    for key, rule in rules.items():
        if key not in values:
            raise UserError(f"the config lacks {where}{key}: give {rule.text}")
        if advice := rule.advice(values[key]):
            raise UserError(f"{where}{key} is {values[key]!r}: give {advice}")
    known = dict.fromkeys(where + name for name in (*rules, *allowed))
    for key, value in values.items():
        is_section = not where and isinstance(value, ConfigDict)
        if not is_section and key not in rules:
            choose(known, where + key, "config key")


def settings(config: ConfigDict) -> dict[str, Mapping[str, Any]]:
    """{folder prefix: {method, weights}} of all config.methods, or of the config's only method."""
    if "methods" not in config:
        return {"": config}
    check_keys("", {"methods": config.methods}, {"methods": NAMES})
    known = section(config, "settings")
    for name in config.methods:
        if "," in name:
            listed = ",".join(repr(one.strip(" ()'")) for one in name.split(","))
            raise UserError(f'methods is {name!r}: type --config.methods="({listed})"')
        if ":" in name:
            raise UserError(
                f"this config has no settings of {name!r}: name a method of your own after "
                f"another one, as in --config=configs/cifar.py:method=kd,{name}"
            )
    return {f"{name}/": choose(known, name, "method") for name in config.methods}


def numbers_of(factory: Callable[..., Method]) -> dict[str, Rule]:
    """The rule for every number that a method takes, as its factory annotates them."""
    hints = typing.get_type_hints(factory, include_extras=True)
    rules = {name: rule_of(hints.get(name)) for name in inspect.signature(factory).parameters}
    if without := [name for name, rule in rules.items() if rule is None]:
        raise UserError(
            f"the method {factory.__name__}: annotate its number {without[0]} with a type of "
            "sskd_jax.rules, such as Positive, or with float, int, bool or str"
        )
    return rules


def rule_of(hint: Any) -> Rule | None:
    """The rule in an annotation such as `Positive`, or that of a plain type, if there is one."""
    rules = (extra for extra in typing.get_args(hint)[1:] if isinstance(extra, Rule))
    return next(rules, BY_TYPE.get(hint))


def place(prefix: str) -> str:
    """Where the setting of a method begins in the config: "settings.kd." for the prefix "kd/"."""
    return prefix and f"settings.{prefix[:-1]}."


def recipe(prefix: str, setting: Mapping[str, Any]) -> Recipe:
    """The recipe of one setting; `prefix` is as in `settings`."""
    where = place(prefix)
    numbers = section(setting, "method", where).to_dict()
    weights = section(setting, "weights", where).to_dict()
    name = numbers.pop("name", None)
    factory = find(METHODS, name, "method")
    check_keys(f"{where}method.", numbers, numbers_of(factory))
    with blamed("the method", [name]):
        method = factory(**numbers)
    *_, last = method.values()
    check_keys(f"{where}weights.", weights, dict.fromkeys(last.terms, NOT_NEGATIVE))
    if not any(weights.values()):
        terms = ", ".join(f"{where}weights.{term}" for term in weights)
        raise UserError(f"nothing would be learned, as these are 0: {terms}")
    return Recipe(prefix, name, method, weights, numbers)
