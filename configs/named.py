"""The methods that a config names: their entries, their sections, and the stages of their own."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs.common import OWN_PIXELS
from configs.methods import ENTRIES, Entry, Schedules, head
from configs.standardized import Pair
from sskd_jax.methods import METHODS
from sskd_jax.types import Method, UserError, blamed, choose, find

SCENARIOS = ("long_tail", "continual")  # configs that give the methods of `COMPARED` other names


def entry_of(name: str) -> Entry:
    """The entry of a method by its typed name, which may be a user's, "my_code:method"."""
    if ":" in name:
        return own_entry(name)
    if name not in ENTRIES:
        check_scenarios(name)
    return choose(ENTRIES, name, "method")


def check_scenarios(name: str) -> None:
    """Raises a `UserError` if one of the `SCENARIOS` has a method of this name."""
    for scenario in SCENARIOS:  # imported here, as they import this module
        if name in importlib.import_module(f"configs.{scenario}").COMPARED:
            file = f"configs/{scenario}.py"
            raise UserError(
                f"the method {name!r} is one of {file}: take --config={file}:method={name}"
            )


def own_entry(name: str) -> Entry:
    """The entry of a user's method: its numbers are their defaults, and every weight is 1.

    Its stages besides teacher and student are trained like SSKD's head. One that is named after its
    network, such as an assistant, has the student's architecture unless another one is given.
    """
    factory = find({}, name, "method")
    numbers = {key: number.default for key, number in inspect.signature(factory).parameters.items()}
    for key, value in numbers.items():
        if value is inspect.Parameter.empty:
            raise UserError(f"the method {name!r}: give its number {key} a default")
    with blamed("the method", [name]):
        method = factory(**numbers)
    if not isinstance(method, Mapping):
        raise UserError(
            f"the method {name!r} returns a {type(method).__name__}, not a dict of stages by name"
        )
    *_, last = method.values()
    networks = {net.place[0] for stage in method.values() for net in stage.nets.values()}

    def stages(student: str) -> Schedules:
        network = {"model": student, **OWN_PIXELS}
        own = (kind for kind in method if kind not in ("teacher", "student"))
        return {kind: (network if kind in networks else {}) | head(student)["head"] for kind in own}

    return Entry(numbers, {"code": dict.fromkeys(last.terms, 1.0)}, stages)


def key_of(name: str) -> str:
    """The name of a method among several: "mine" for "my_code:mine"."""
    return name.rpartition(":")[2]


def method(name: str, preset: str = "code", pair: Pair | None = None) -> ConfigDict:
    """A method with its numbers and its terms' weights for a pair of networks."""
    entry, base = entry_of(name), name.partition("+")[0]
    weights, numbers = dict(choose(entry.weights, preset, f"weights for {name}")), {}
    for key, value in entry.by_pair.get(pair, {}).items():
        (weights if key in weights else numbers)[key] = value
    return ConfigDict({"method": {"name": base, **entry.numbers, **numbers}, "weights": weights})


def imagenet_method(name: str, preset: str = "code") -> ConfigDict:
    """The same with the numbers and weights that differ on ImageNet."""
    entry, config = entry_of(name), method(name, preset)
    config.method.update(entry.imagenet_numbers)
    config.weights.update(entry.imagenet_weights)
    return config


def chosen(names: str, preset: str, one: Callable[[str, str], ConfigDict]) -> ConfigDict:
    """The config of the named method; for several, separated by commas, that of all of them.

    Args:
      names: of the methods.
      preset: of the terms' weights. Of several methods, those that lack it have the preset "code".
      one: (name, preset) -> the config of one method.
    """
    split = names.split(",")
    if len(split) == 1:
        return one(names, preset)
    having = [name for name in split if preset in entry_of(name).weights]
    settings = {}
    for name in split:
        lacks = bool(having) and name not in having
        settings[key_of(name)] = one(name, "code" if lacks else preset)
    return ConfigDict({"methods": tuple(map(key_of, split)), "settings": settings})


def own_stages(names: str, student: str) -> Schedules:
    """How the stages of the named methods besides teacher and student are trained.

    Raises:
      UserError: two methods train a stage of one name differently.
    """
    found: Schedules = {}
    for name in names.split(","):
        for kind, schedule in entry_of(name).stages(student).items():
            if found.setdefault(kind, schedule) != schedule:
                raise UserError(
                    f"the stage {kind} of {name} is trained otherwise than that of another method "
                    "in this run: give yours another name, or train them in separate runs"
                )
    return found


def stages_of(section: Mapping[str, Any]) -> Method:
    """The stages of a method, from the section with its registered name and its numbers."""
    numbers = {key: number for key, number in section.items() if key != "name"}
    return find(METHODS, section["name"], "method")(**numbers)


def nesterov(names: str, stage: str) -> bool:
    """Whether "teacher" or "student" is trained with Nesterov's momentum.

    Methods in a comparison share these schedules, so all that train such a stage must want it.
    """
    training = [name for name in names.split(",") if stage in stages_of(method(name).method)]
    return bool(training) and all(stage in entry_of(name).nesterov for name in training)
