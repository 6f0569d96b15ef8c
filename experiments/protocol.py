"""The protocol of a network: how it is trained, at which cost, and in which experiment.

It follows from a config alone, so that planned and recorded runs can be recognised as the same
experiment with different seeds.
"""

import hashlib
import importlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import common, methods, named
from experiments import cost
from sskd_jax.methods import METHODS
from sskd_jax.methods.common import supervised
from sskd_jax.types import Stage, UserError, choose, find
from sskd_jax.workdir.files import Row
from sskd_jax.workdir.logbook import as_stored, flatten

GIVEN = (".pth", ".pt", ".safetensors")  # suffixes of weights files, trained elsewhere
# The training of a teacher, as `recipe` returns it.
SUPERVISED = "labels", {"method": {}, "weights": {}}, {"teacher": supervised("teacher")}
# The default section of a stage.
STAGE = common.OWN_PIXELS | common.sgd(epochs=0, milestones=(), learning_rate=0.0)


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
    """The values of a config by the keys that change them when typed, such as "student.epochs"."""
    return flatten(config.to_dict())


def as_json(config: ConfigDict) -> Row:
    """A config as it is stored in a workdir's config.json."""
    return as_stored(config.to_dict())


def as_today(config: Row) -> Row:
    """A stored config, converted to today's keys.

    In earlier versions, a stage had the key `fraction` in place of `images`, and its milestones
    were numbers of epochs.
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
    """The protocol of the network that a stage produces.

    Args:
      config: as it is stored in config.json.
      stage: its name in the results: "teacher", "student" or "sskd/student".
    """
    config = as_today(config)
    method, setting, stages = recipe(config, stage)
    *before, last = stages
    section, data = config[last], config["data"]
    given = is_given(section)
    started = [f"{last} {text}" for text in told_start(section)]
    peers = other_networks(config, stages)
    return {
        "data": data["name"],
        "teacher": config["teacher"]["model"] if "teacher" in {*before, *peers} else "",
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
    """The "experiment" that `describe` returns, without the time that its other entries take."""
    config = as_today(config)
    return experiment(config, *recipe(config, stage))


def last_stage(config: Row) -> str:
    """The last stage of a config's only method, or of the first of several."""
    folder = f"{config['methods'][0]}/" if "methods" in config else ""
    _, _, stages = recipe(as_today(config), folder)
    *_, last = stages
    return folder + last


def recipe(config: Row, stage: str) -> tuple[str, Row, Mapping[str, Stage]]:
    """(name of the method, its numbers and weights, its stages up to this one) for a stage.

    The name is the one that is typed, such as "crd+kd". For a folder, such as "sskd/", the last
    entry has all stages of its method.
    """
    folder, _, kind = stage.rpartition("/")
    if kind == "teacher" and (not folder and "settings" in config):  # the teacher of all methods
        return SUPERVISED
    setting = config["settings"][folder] if folder else config
    numbers, weights = dict(setting["method"]), setting["weights"]
    base = numbers.pop("name")
    numbers = named.entry_of(base).numbers | numbers
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
    """The architecture of a stage's own network, or else of the first network among its nets."""
    sections = [section for net in stage.nets.values() if (section := net.place[0])]
    return config[kind if "model" in config[kind] else sections[0]]["model"]


def experiment(config: Row, method: str, setting: Row, stages: Mapping[str, Stage]) -> str:
    """Eight hexadecimal digits that are the same for networks which differ only in their seed.

    Default values do not count, so that a key that is added later changes no experiment.
    """
    *_, last = stages
    data, sections, dtype = apart_from_the_method(config, stages)
    weights = {name: weight for name, weight in setting["weights"].items() if weight}
    content = [last, method, data, sections, unusual(method, setting), weights, dtype]
    return checksum(content)


def other_networks(config: Row, stages: Mapping[str, Stage]) -> dict[str, Row]:
    """What decides the networks that no stage is named after, such as HSSAKD's peer, by section."""
    places = {net.place[0] for stage in stages.values() for net in stage.nets.values()}
    keys = ("model", *common.OWN_PIXELS)
    return {
        name: {key: config[name][key] for key in keys if config[name].get(key)}
        for name in sorted(places - {"", *stages})
    }


def apart_from_the_method(config: Row, stages: Mapping[str, Stage]) -> tuple[Row, Row, Row]:
    """(data, sections of the stages, dtype): what decides an experiment beside method and weights.

    Default values are left out.
    """
    data = {key: value for key, value in config["data"].items() if value and key != "data_dir"}
    sections = {kind: decisive(config[kind]) for kind in stages} | other_networks(config, stages)
    dtype = {"dtype": config["dtype"]} if config["dtype"] != "auto" else {}
    return data, sections, dtype


def told_apart(networks: Sequence[tuple[Row, str]]) -> list[str]:
    """What distinguishes networks beside their methods' settings, such as "student.momentum 0.8".

    Args:
      networks: (config as it is stored in config.json, stage) of each.

    Returns:
      For each, as text, its values of those config keys that decide an experiment and differ.
    """
    configs = [as_today(config) for config, _ in networks]
    deciding = []
    for config, (_, stage) in zip(configs, networks, strict=True):
        _, _, stages = recipe(config, stage)
        data, sections, dtype = apart_from_the_method(config, stages)
        deciding.append(plain(flatten({"data": data, **sections, **dtype})))
    keys = dict.fromkeys(key for one in deciding for key in one)
    first, *others = deciding
    differing = [key for key in keys if any(one.get(key) != first.get(key) for one in others)]
    values = [flatten(config) for config in configs]
    return [", ".join(f"{key} {one.get(key, '')}" for key in differing) for one in values]


def checksum(content: Any) -> str:
    """Eight hexadecimal digits of the hash of JSON content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(plain(content), sort_keys=True).encode()).hexdigest()[:8]


def unusual(method: str, setting: Row) -> Row:
    """The numbers of a method that differ from its defaults."""
    numbers = setting["method"]
    usual = named.entry_of(method).numbers if numbers else {}
    return {key: value for key, value in numbers.items() if plain(value) != plain(usual[key])}


def decisive(section: Row) -> Row:
    """The entries of a stage's section that decide its networks: all that are not defaults.

    If the weights were trained elsewhere, they are the architecture, the name of the file, and
    the mean, std and size of the images that the network expects.
    """
    if is_given(section):
        pixels = {key: section[key] for key in common.OWN_PIXELS if section.get(key)}
        file = pathlib.Path(section["checkpoint"]).name
        return {"model": section["model"], "file": file} | pixels
    default, own = flatten(STAGE), flatten(section)
    start = pathlib.Path(own.get("start_from", ""))
    if start.is_absolute():  # as in a record, which has no folders of the machine
        own["start_from"] = start.name
    return {
        key: value
        for key, value in own.items()
        if key != "checkpoint" and plain(value) != plain(default.get(key))
    }


def plain(content: Any) -> Any:
    """JSON content with whole numbers as floats, so that 1 and 1.0 give the same checksum."""
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    is_whole = isinstance(content, int) and not isinstance(content, bool)
    return float(content) if is_whole else content


def is_given(section: Row) -> bool:
    """Whether a stage's weights are a file from elsewhere; a workdir of a run does not count."""
    return section.get("checkpoint", "").endswith(GIVEN)


def told_changes(method: str, setting: Row, config: Row) -> str:
    """Which of a method's settings differ from the defaults, such as "ss 0"; "" if none does."""
    if not setting["weights"]:
        return ""
    pair = tuple(config.get(name, {}).get("model", "") for name in ("teacher", "student"))
    usual = named.method(method, pair=pair).to_dict()
    usual["method"].pop("name")
    before, now = flatten(usual), flatten(setting)
    changed = [key for key, value in now.items() if plain(before.get(key)) != plain(value)]
    return ", ".join(f"{key.rpartition('.')[2]} {now[key]}" for key in changed)


def told_stage(kind: str, section: Row) -> str:
    """How a stage before the network's own was trained, as text."""
    if is_given(section):
        return f"{kind} {pathlib.Path(section['checkpoint']).name}"
    about = [*told_images(section["images"]), *told_start(section)]
    return ", ".join([f"{kind} {section['epochs']} epochs", *about])


def told_images(images: Row) -> list[str]:
    """What is not the default of a stage's images, as texts such as "share 0.25"."""
    usual = STAGE["images"]
    return [f"{key} {images[key]:g}" for key in usual if images[key] != usual[key]]


def told_start(section: Row) -> list[str]:
    """The weights that a stage began with, if given, as a text such as "from a.pth"."""
    start = section.get("start_from")
    return [f"from {pathlib.Path(start).name}"] if start else []


def told_selection(validation: float) -> str:
    """The images by which the best epoch is chosen, as text."""
    return f"{validation:g} of the training images" if validation else "test images"
