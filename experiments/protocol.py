"""What was done for a figure: networks, method, images, epochs, views, cost, and what is compared.

It is found from a config alone, so that a run that is planned and one that was recorded can be
told to be the same but for their seeds.
"""

import functools
import hashlib
import importlib
import json
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import common, methods
from sskd_jax.data.scenarios import long_tail
from sskd_jax.methods import METHODS
from sskd_jax.methods.common import supervised
from sskd_jax.models.build import architecture
from sskd_jax.types import Array, Batch, Facts, Stage, UserError, View, choose, find
from sskd_jax.views import Optics
from sskd_jax.workdir.files import Row
from sskd_jax.workdir.logbook import flatten

# Training images, classes, and pixels of a side where the config does not say them.
DATASETS = {
    "digits": (1347, 10, 8),
    "cifar10": (50_000, 10, 32),
    "cifar100": (50_000, 100, 32),
    "imagenet2012": (1_281_167, 1000, 224),
}
UNKNOWN = (1000, 10, 32)  # in place of any other
FORWARD_AND_BACKWARD = 3  # what a step costs a network that learns, in forward passes
GIVEN = (".pth", ".pt", ".safetensors")  # endings of the file of a network trained elsewhere
LABELS = "labels", {"method": {}, "weights": {}}, {"teacher": supervised("teacher")}
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
        "views": views(config, last, stages[last]),
        **section["images"],
        "before": "; ".join([told_stage(kind, config[kind]) for kind in before] + started),
        "selection": told_selection(data["validation"]),
        "teraflop": None if given else cost(config, stages),
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
        return LABELS
    setting = config["settings"][folder] if folder else config
    numbers, weights = dict(setting["method"]), setting["weights"]
    base = numbers.pop("name")
    numbers = methods.entry_of(base).numbers | numbers
    beside = f"{base}+kd" in methods.NAMES and weights.get("kd")
    found = {"method": numbers, "weights": weights}
    stages = find(METHODS, base, "method")(**numbers)
    if kind == "teacher" and (kind not in stages or stages[kind].shared):
        return LABELS
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


def views(config: Row, kind: str, stage: Stage) -> float:
    """How many rows a stage's networks see for every image of a step, stored ones as well."""
    counts = rows(config, kind, stage)
    most = max(counts[name] for name, net in stage.nets.items() if isinstance(net.module, str))
    return int(most) if most == int(most) else most


def rows(config: Row, kind: str, stage: Stage) -> dict[str, float]:
    """How many rows a step gives to each network of a stage, by image of its batch.

    The loss is traced for it, with networks that answer nothing but zeros.
    """
    data, batch_size = config["data"], config[kind]["batch_size"]
    total, classes, _ = DATASETS.get(data["name"], UNKNOWN)
    shape = (size_of(config),) * 2 + (3,)
    found = dict.fromkeys(stage.nets, 0.0)

    def call(name: str, *args: Any, **kwargs: Any) -> Any:
        module = stage.nets[name].module
        if not isinstance(module, str):
            return module.init_with_output(jax.random.key(0), *args, **kwargs)[0]
        count = jax.tree.leaves(args)[0].shape[0]
        found[name] += count / batch_size
        network, _, part = module.partition(".")
        _, _, one = outline(config[network]["model"], part, size_of(config, network), classes)
        return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape[1:]), leaf.dtype), one)

    def see(view: View, image: Array | None = None) -> Array:
        count = batch_size if image is None else image.shape[0]
        return jnp.zeros((count * rows_of(view), *shape))

    def trace() -> None:
        key, label = jax.random.PRNGKey(0), jnp.zeros(batch_size, jnp.int32)
        facts = Facts(jnp.zeros(total, jnp.int32), shape, classes)
        batch = Batch(
            image=jnp.zeros((batch_size, *shape), jnp.uint8),
            label=label,
            index=label,
            see=see,
            epoch=label[0],
            key=key,
            memory=stage.memory(key, facts) if stage.memory else {},
            counts=lambda: np.ones(classes, int),
        )
        stage.loss({name: functools.partial(call, name) for name in stage.nets}, batch)

    jax.eval_shape(trace)
    return found


def size_of(config: Row, network: str = "") -> int:
    """Pixels of a side of the images, as a network sees them."""
    _, _, size = DATASETS.get(config["data"]["name"], UNKNOWN)
    return config.get(network, {}).get("size") or config["data"].get("size", size)


@functools.cache
def rows_of(view: View) -> int:
    """How many rows a view makes of an image."""
    optics = Optics(flip=True, pad=1, mean=(0.5,) * 3, std=(0.5,) * 3)
    key, pixels = jax.random.key(0), jnp.zeros((8, 8, 3), jnp.uint8)
    return jax.eval_shape(functools.partial(view, optics), key, pixels).shape[0]


def cost(config: Row, stages: Mapping[str, Stage]) -> float | None:
    """Operations of the networks in training, in 10**12; None for images of unknown number.

    A teacher's own training does not count, nor do heads, regressors and memories.
    """
    if config["data"]["name"] not in DATASETS:
        return None
    kinds = [kind for kind in stages if kind != "teacher"] or ["teacher"]
    return round(sum(stage_cost(config, kind, stages[kind]) for kind in kinds) / 1e12, 3)


def stage_cost(config: Row, kind: str, stage: Stage) -> float:
    """Operations of the networks in one stage."""
    section, (_, classes, _) = config[kind], DATASETS[config["data"]["name"]]
    per_image, counts = 0.0, rows(config, kind, stage)
    for name, net in stage.nets.items():
        if isinstance(net.module, str):
            network, _, part = net.module.partition(".")
            passes = FORWARD_AND_BACKWARD if net.learns else 1
            size = size_of(config, network)
            per_row = forward(config[network]["model"], part, size, classes)
            per_image += passes * counts[name] * per_row
    steps = images_of_epoch(config, section, stage) // section["batch_size"]
    return section["epochs"] * steps * section["batch_size"] * per_image


def images_of_epoch(config: Row, section: Row, stage: Stage) -> int:
    """How many training images an epoch of a stage visits."""
    total, classes, _ = DATASETS[config["data"]["name"]]
    total -= round(config["data"]["validation"] * total)
    label = np.arange(total) % classes
    if section["images"]["imbalance"] > 1:
        label = label[long_tail(label, section["images"]["imbalance"], seed=0)]
    label = label[: round(section["images"]["share"] * label.size)]
    images = types.SimpleNamespace(size=label.size, label=label)
    return len(stage.order(np.random.default_rng(0), images, 0))


@functools.cache
def forward(model: str, part: str, size: int, classes: int) -> float:
    """Operations over one image of a network, or of its part "branches", as XLA counts them."""
    apply, shapes, _ = outline(model, part, size, classes)
    return jax.jit(apply).lower(*shapes).cost_analysis()["flops"]


@functools.cache
def outline(model: str, part: str, size: int, classes: int) -> tuple[Callable, Any, Any]:
    """(function, shapes of its arguments, shapes of its outputs) of the same, for one image."""
    module, key = architecture(model)(num_classes=classes), jax.random.key(0)
    given = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    outputs, variables = jax.eval_shape(module.init_with_output, key, given)
    if part:
        module, given = getattr(module, part), outputs.maps
        outputs, variables = jax.eval_shape(module.init_with_output, key, given)
    return module.apply, (variables, given), outputs
