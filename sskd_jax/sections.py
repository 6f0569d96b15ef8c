"""Turns sections of a config into a stage's networks, optics, steps, schedule and optimizer."""

from typing import Any

import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from sskd_jax import settings
from sskd_jax.data import sources
from sskd_jax.data.sources import Split
from sskd_jax.data.stream import Stream
from sskd_jax.engine import optim
from sskd_jax.models.build import adapted, build
from sskd_jax.types import Net, Stage, UserError
from sskd_jax.views import Optics

MOST_STEPS = 2**31 - 1  # of a stage: a step is an int32


def optics_of(data: ConfigDict) -> Optics:
    return Optics(data.flip, data.pad, tuple(data.mean), tuple(data.std))


def networks_of(config: ConfigDict, stage: Stage) -> dict[str, str]:
    """The architecture, by net, of every net of a stage that is a network or a part of one.

    That of a resnet8's branches is "resnet8.branches".
    """
    found = {}
    for name, net in stage.nets.items():
        section, part = net.place
        if section:
            model = settings.section(config, section).model
            found[name] = model + f".{part}" * bool(part)
    return found


def dataset_of(
    data: ConfigDict, name: str | None = None, data_dir: str | None = None
) -> sources.Dataset:
    """The dataset of a section `data`, in memory or streamed; `name` and `data_dir` override it.

    Raises:
      UserError: as `sources.load`.
    """
    streaming = {key: data[key] for key in settings.STREAMING if key in data}
    return sources.load(name or data.name, data_dir or data.data_dir or None, **streaming)


def module_of(config: ConfigDict, net: Net, num_classes: int, dtype: Any) -> nn.Module:
    """A net's module; "teacher" is the network of that section, "teacher.branches" a part of it."""
    section, part = net.place
    if not section:
        return net.module
    model = settings.section(config, section).model
    module = build(section, part, model, num_classes, dtype)
    if part:
        return module
    return adapted(module, optics_of(config.data), config[section])


def normalisations(config: ConfigDict, stage: Stage) -> dict[str, dict[str, Any]]:
    """The mean, std and, if it is their own, image size of a stage's learning networks, by net."""
    found = {}
    for name, net in stage.nets.items():
        if (net.learns or net.made) and net.is_network:
            optics = optics_of(config.data).own(config[net.module])
            found[name] = {"mean": list(optics.mean), "std": list(optics.std)}
            if size := config[net.module].get("size"):
                found[name]["image"] = [size, size, 3]
    return found


def steps_per_epoch(
    kind: str, section: ConfigDict, stage: Stage, images: Split | Stream, devices: int
) -> int:
    """The number of steps of an epoch, in whole batches that are divided among the devices."""
    size = section.batch_size
    visited = len(stage.order(np.random.default_rng(0), images, 0))
    if size % devices:
        fitting = max(1, round(size / devices)) * devices
        raise UserError(
            f"{devices} devices do not divide {kind}.batch_size={size}: "
            f"use --config.{kind}.batch_size={fitting}"
        )
    if size > visited:
        raise UserError(
            f"{kind}.batch_size={size} is more than the {visited} images of an epoch: "
            "use a smaller one"
        )
    steps = visited // size
    if section.epochs * steps > MOST_STEPS:
        raise UserError(
            f"{kind}.epochs={section.epochs} of {steps} steps are more than can be counted "
            f"({MOST_STEPS:,}): use fewer epochs or a larger batch_size"
        )
    return steps


def class_counts(images: Split | Stream, num_classes: int) -> np.ndarray:
    """The number of images of each class, i64[K]."""
    return np.bincount(images.label, minlength=num_classes)


def schedule_of(section: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate of a stage by step; its milestones are shares of its epochs."""
    return optim.milestone_schedule(
        section.learning_rate,
        [share * section.epochs for share in section.milestones],
        section.decay,
        steps_per_epoch,
        warmup_epochs=section.warmup_epochs,
        epochs=section.epochs,
        cooldown_epochs=section.cooldown_epochs,
        cosine=section.cosine,
    )


def optimizer_of(
    kind: str, section: ConfigDict, stage: Stage, schedule: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a stage's parameters."""
    numbers = {"momentum": section.momentum, "weight_decay": section.weight_decay}
    offset = stage.momentum_offset
    if not offset:
        return optim.sgd(schedule, nesterov=section.nesterov, **numbers)
    if len(stage.terms) < 2:
        raise UserError(f"{kind}: a momentum_offset parts two terms or more, not {stage.terms[0]}")
    if section.nesterov:
        raise UserError(
            f"{kind}.nesterov: momenta that differ by term have no such form: use False"
        )
    if not offset <= section.momentum < 1 - offset:
        raise UserError(
            f"{kind}.momentum is {section.momentum}: with method.momentum_offset={offset} give a "
            f"number from {offset} on, below {1 - offset:g}"
        )
    return optim.two_momenta(schedule, offset=offset, **numbers)
