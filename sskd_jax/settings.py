"""What a config may say: the keys of every section and the values that they take, checked before anything is loaded."""

import inspect
import itertools
import math
import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS
from sskd_jax.types import Method, UserError, choose

Rule = tuple[Callable[[Any], bool], str]  # whether a value is fine, and what would be


class Recipe(NamedTuple):
    """A method of this run: the prefix of its folders, its name, functions and weights."""

    prefix: str
    name: str
    method: Method
    weights: Mapping[str, float]


def is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def whole(low: int) -> Rule:
    return lambda x: is_whole(x) and low <= x < 2**31, f"a whole number from {low} on"


def number(fits: Callable[[float], bool], text: str) -> Rule:
    return lambda x: is_number(x) and fits(x), text


def three(fits: Callable[[float], bool], text: str) -> Rule:
    return lambda x: is_row(x) and len(x) == 3 and all(is_number(n) and fits(n) for n in x), text


def is_row(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def rising(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda x: is_row(x) and len(x) == 2 and all(map(fits, x)) and x[0] <= x[1]


def ascend(value: Any) -> bool:
    return (
        is_row(value)
        and all(map(is_number, value))
        and all(a < b for a, b in itertools.pairwise((0, *value)))
    )


POSITIVE = number(lambda x: x > 0, "a number above 0")
NOT_NEGATIVE = number(lambda x: x >= 0, "a number, 0 or more")
SHARE = number(lambda x: 0 <= x <= 1, "a number from 0 to 1")
BELOW_ONE = number(lambda x: 0 <= x < 1, "a number from 0, but below 1")
NUMBER = number(lambda x: True, "a number")
TEXT: Rule = lambda x: isinstance(x, str), "text"
FLAG: Rule = lambda x: isinstance(x, bool), "True or False"
NAMES: Rule = lambda x: is_row(x) and len(x) == len(set(map(str, x))) > 0, "different names"

RUN = {"seed": whole(0), "dtype": TEXT, "time_limit": NOT_NEGATIVE, "save_seconds": NOT_NEGATIVE}
DATA = {
    "name": TEXT,
    "data_dir": TEXT,
    "flip": FLAG,
    "pad": whole(0),
    "validation": BELOW_ONE,
    "mean": three(lambda x: True, "three numbers"),
    "std": three(lambda x: x > 0, "three numbers above 0"),
}
STREAMING = {
    "test_split": TEXT,
    "size": whole(8),
    "resize": whole(8),
    "scale": (
        rising(lambda x: SHARE[0](x) and x > 0),
        "two numbers above 0, 1 at most, not falling",
    ),
    "ratio": (rising(POSITIVE[0]), "two numbers above 0, not falling"),
}
SGD = {
    "epochs": whole(1),
    "batch_size": whole(2),
    "learning_rate": POSITIVE,
    "decay": POSITIVE,
    "warmup_epochs": NOT_NEGATIVE,
    "cooldown_epochs": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "fraction": number(lambda x: 0 < x <= 1, "a number above 0, 1 at most"),
    "momentum": BELOW_ONE,
    "milestones": (ascend, "numbers of epochs, each above the one before"),
}
STAGES = {"teacher": SGD | {"model": TEXT, "checkpoint": TEXT}, "student": SGD | {"model": TEXT}}
OWN_STAGE = SGD | {"checkpoint": TEXT}  # of a method
KNOBS = {
    "temperature": POSITIVE,
    "variance": POSITIVE,
    "weight": NOT_NEGATIVE,
    "ratio": SHARE,
    "layer": whole(0),
    "width": whole(1),
    "count": whole(1),
    "epochs": whole(0),
    "momentum": BELOW_ONE,
    "standardize": FLAG,
}  # of methods, by the last word of their names


def check(config: ConfigDict) -> list[Recipe]:
    """The methods of the run, once every number that it takes from `config` is found fit.

    Raises:
      UserError: a key is missing or unknown, or its value can't be.
    """
    check_keys("", config, RUN, allowed=("method", "weights", "methods", "settings", "paper"))
    data = section(config, "data")
    check_keys("data.", data, DATA | (STREAMING if "size" in data else {}))
    recipes = [recipe(prefix, setting) for prefix, setting in settings(config).items()]
    own = {name: OWN_STAGE for recipe in recipes for name in recipe.method.pretrain}
    for name, rules in (STAGES | own).items():
        check_keys(f"{name}.", section(config, name), rules)
    for name in STAGES:
        choose(MODELS, config[name].model, f"{name} architecture")
    return recipes


def section(config: Mapping[str, Any], name: str, where: str = "") -> Mapping[str, Any]:
    """A part of the config that must be there and have keys."""
    if not isinstance(config.get(name), ConfigDict):
        raise UserError(
            f"the config lacks the section {where}{name}: configs/cifar.py shows what belongs there"
        )
    return config[name]


def check_keys(
    where: str, values: Mapping[str, Any], rules: Mapping[str, Rule], allowed: Collection[str] = ()
) -> None:
    """All of the keys that have rules, with fitting values, and besides them only sections and those `allowed`."""
    for key, (fits, text) in rules.items():
        if key not in values:
            raise UserError(f"the config lacks {where}{key}: give {text}")
        if not fits(values[key]):
            raise UserError(f"{where}{key} is {values[key]!r}: give {text}")
    for key, value in values.items():
        if not isinstance(value, ConfigDict) and key not in rules:
            choose(
                dict.fromkeys(where + known for known in (*rules, *allowed)),
                where + key,
                "config key",
            )


def settings(config: ConfigDict) -> dict[str, Mapping[str, Any]]:
    """{folder prefix: {method, weights}}: those of config.methods, or the config's only one."""
    if "methods" not in config:
        return {"": config}
    check_keys("", {"methods": config.methods}, {"methods": NAMES})
    return {
        f"{name}/": choose(section(config, "settings"), name, "method") for name in config.methods
    }


def recipe(prefix: str, setting: Mapping[str, Any]) -> Recipe:
    """The method of one setting; `prefix` as in `settings`."""
    where = prefix and f"settings.{prefix[:-1]}."
    knobs, weights = (section(setting, name, where).to_dict() for name in ("method", "weights"))
    name = knobs.pop("name", None)
    factory = choose(METHODS, name, "method")
    check_keys(
        f"{where}method.",
        knobs,
        {
            key: KNOBS.get(key.rsplit("_")[-1], NUMBER)
            for key in inspect.signature(factory).parameters
        },
    )
    method = factory(**knobs)
    check_keys(f"{where}weights.", weights, dict.fromkeys(method.terms, NOT_NEGATIVE))
    return Recipe(prefix, name, method, weights)
