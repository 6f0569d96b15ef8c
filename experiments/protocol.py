"""What was done for a figure: networks, method, images, epochs, views, cost, and what is compared.

It is found from a config alone, so that a run that is planned and one that was recorded can be
told to be the same but for their seeds.
"""

import hashlib
import importlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from configs import common, methods
from experiments import cost
from sskd_jax.methods import METHODS
from sskd_jax.methods.common import supervised
from sskd_jax.types import Stage, UserError, choose, find
from sskd_jax.workdir.files import Row
from sskd_jax.workdir.logbook import flatten

GIVEN = (".pth", ".pt", ".safetensors")  # endings of the file of a network trained elsewhere
# How a teacher is trained, as `recipe` tells it.
SUPERVISED = "labels", {"method": {}, "weights": {}}, {"teacher": supervised("teacher")}
# A stage that says nothing special.
STAGE = common.OWN_PIXELS | common.sgd(epochs=0, milestones=(), learning_rate=0.0)


def leave_accelerators() -> None:
    """Keeps this process off the accelerators, which the runs need; for commands, at their start.

    Processes that it starts are not concerned.
    """
    jax.config.update("jax_platforms", "cpu")


def load(name: str, changes: Mapping[str, Any]) -> ConfigDict:
    """The config of "configs/cifar.py:method=kd" with some keys, such as "student.epochs", changed.

    Raises:
      UserError: there is no such file or key, or a value is of another type.
    """
    path, _, arguments = name.partition(":")
    try:
        config = importlib.import_module(f"configs.{pathlib.Path(path).stem}").get_config(arguments)
        for key in changes:
            choose(keys_of(config), key, f"key of {name}")
        config.update_from_flattened_dict(changes)
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(f"--config={name} with {dict(changes)}: {error}") from error
    return config


def keys_of(config: ConfigDict) -> Row:
    """The keys that may be changed, as they are typed, such as "student.epochs"."""
    return flatten(config.to_dict())


def as_json(config: ConfigDict) -> Row:
    """A config as it reads in a workdir's config.json."""
    return json.loads(json.dumps(config.to_dict()))


def as_today(config: Row) -> Row:
    """A stored config in today's words.

    A stage's images were once chosen by its key `fraction`, and its milestones were epochs.
    """
    found = dict(config)
    for name, section in config.items():
        if isinstance(section, dict) and "epochs" in section:
            share = section.get("fraction", 1.0)
            section = {"images": STAGE["images"] | {"share": share}} | section
            if any(milestone >= 1 for milestone in section["milestones"]):
                epochs = section["epochs"]
                milestones = [milestone / epochs for milestone in section["milestones"]]
                section = section | {"milestones": milestones}
            found[name] = {key: value for key, value in section.items() if key != "fraction"}
    return found


def describe(config: Row, stage: str) -> Row:
    """The protocol of the network that a stage makes.

    Args:
      config: as it reads in config.json.
      stage: as in the results: "teacher", "student" or "sskd/student".
    """
    config = as_today(config)
    method, setting, stages = recipe(config, stage)
    *before, last = stages
    section, data = config[last], config["data"]
    given, start = is_given(section), section.get("start_from")
    started = [f"{last} from {pathlib.Path(start).name}"] if start else []
    return {
        "data": data["name"],
        "teacher": config["teacher"]["model"] if "teacher" in before else "",
        "network": architecture_of(config, last, stages[last]),
        "method": method,
        "changes": told_changes(method, setting, config),
        "epochs": "given" if given else section["epochs"],
        "batch_size": section["batch_size"],
        "views": cost.views(config, last, stages[last]),
        **section["images"],
        "before": "; ".join([told_stage(kind, config[kind]) for kind in before] + started),
        "selection": told_selection(data["validation"]),
        "teraflop": None if given else cost.teraflop(config, stages),
        "experiment": experiment(config, method, setting, stages),
    }


def identify(config: Row, stage: str) -> str:
    """What `describe` says as "experiment", alone and at once."""
    config = as_today(config)
    return experiment(config, *recipe(config, stage))


def last_stage(config: Row) -> str:
    """The stage that a config's only method, or the first of several, ends with."""
    folder = f"{config['methods'][0]}/" if "methods" in config else ""
    _, _, stages = recipe(as_today(config), folder)
    *_, last = stages
    return folder + last


def recipe(config: Row, stage: str) -> tuple[str, Row, Mapping[str, Stage]]:
    """(method as it is typed, its numbers and weights, its stages up to that) of a stage.

    For a folder, such as "sskd/", they are all stages of its method.
    """
    folder, _, kind = stage.rpartition("/")
    if kind == "teacher" and (not folder and "settings" in config):  # that of all methods
        return SUPERVISED
    setting = config["settings"][folder] if folder else config
    numbers, weights = dict(setting["method"]), setting["weights"]
    base = numbers.pop("name")
    numbers = methods.entry_of(base).numbers | numbers
    beside = f"{base}+kd" in methods.NAMES and weights.get("kd")
    found = {"method": numbers, "weights": weights}
    stages = find(METHODS, base, "method")(**numbers)
    if kind == "teacher" and (kind not in stages or stages[kind].shared):
        return SUPERVISED
    if kind:
        kinds = list(stages)
        stages = {name: stages[name] for name in kinds[: kinds.index(kind) + 1]}
    return base + "+kd" * bool(beside), found, stages


def architecture_of(config: Row, kind: str, stage: Stage) -> str:
    """The network of a stage, or the first one of those that it calls."""
    modules = (net.module for net in stage.nets.values() if isinstance(net.module, str))
    section = kind if "model" in config[kind] else next(modules).partition(".")[0]
    return config[section]["model"]


def experiment(config: Row, method: str, setting: Row, stages: Mapping[str, Stage]) -> str:
    """Eight digits that networks share which differ in their seed alone.

    What is as it is by default does not count, so that a key that is new tomorrow parts nothing.
    """
    *_, last = stages
    sections = {kind: decisive(config[kind]) for kind in stages}
    data = {key: value for key, value in config["data"].items() if value and key != "data_dir"}
    dtype = {"dtype": config["dtype"]} if config["dtype"] != "auto" else {}
    weights = {name: weight for name, weight in setting["weights"].items() if weight}
    content = [last, method, data, sections, unusual(method, setting), weights, dtype]
    return checksum(content)


def checksum(content: Any) -> str:
    """Eight digits of what is JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(plain(content), sort_keys=True).encode()).hexdigest()[:8]


def unusual(method: str, setting: Row) -> Row:
    """The numbers of a method that are not as they are by default."""
    numbers = setting["method"]
    usual = methods.entry_of(method).numbers if numbers else {}
    return {key: value for key, value in numbers.items() if plain(value) != plain(usual[key])}


def decisive(section: Row) -> Row:
    """What of a stage's section decides its networks: where it is given, which file that was."""
    if is_given(section):
        pixels = {key: section[key] for key in common.OWN_PIXELS if section.get(key)}
        file = pathlib.Path(section["checkpoint"]).name
        return {"model": section["model"], "file": file} | pixels
    default = flatten(STAGE)
    return {
        key: value
        for key, value in flatten(section).items()
        if key != "checkpoint" and plain(value) != plain(default.get(key))
    }


def plain(content: Any) -> Any:
    """JSON in which no number depends on how it was typed: 1 becomes 1.0."""
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    is_whole = isinstance(content, int) and not isinstance(content, bool)
    return float(content) if is_whole else content


def is_given(section: Row) -> bool:
    """Whether a network is a file from elsewhere; a workdir of ours is as good as training it."""
    return section.get("checkpoint", "").endswith(GIVEN)


def told_changes(method: str, setting: Row, config: Row) -> str:
    """What differs from the method as it is by default, such as "ss 0"; "" where nothing does."""
    if not setting["weights"]:
        return ""
    pair = tuple(config.get(name, {}).get("model", "") for name in ("teacher", "student"))
    usual = methods.method(method, pair=pair).to_dict()
    usual["method"].pop("name")
    before, now = flatten(usual), flatten(setting)
    changed = [key for key, value in now.items() if plain(before.get(key)) != plain(value)]
    return ", ".join(f"{key.rpartition('.')[2]} {now[key]}" for key in changed)


def told_stage(kind: str, section: Row) -> str:
    """How a stage before the network's own was done."""
    if is_given(section):
        return f"{kind} {pathlib.Path(section['checkpoint']).name}"
    images = [
        f"{key} {value:g}"
        for key, value in section["images"].items()
        if value != STAGE["images"][key]
    ]
    start = section.get("start_from")
    started = [f"from {pathlib.Path(start).name}"] if start else []
    return ", ".join([f"{kind} {section['epochs']} epochs", *images, *started])


def told_selection(validation: float) -> str:
    """What the best epoch is chosen on."""
    return f"{validation:g} of the training images" if validation else "test images"
