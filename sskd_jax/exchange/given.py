"""Weights from elsewhere for a stage: those that replace its training, or those it starts from."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from sskd_jax.engine.loop import Job, first_state
from sskd_jax.exchange import torch_bridge
from sskd_jax.exchange.finished import record_of, shapes
from sskd_jax.system.paths import locate
from sskd_jax.types import Params, UserError
from sskd_jax.workdir.checkpoint import checksum
from sskd_jax.workdir.files import CONFIG, STAGE, read_json
from sskd_jax.workdir.stages import candidates, compare, find_stage, kind_of, load_folder

# What a stage's description says of images, which may have been others in another run.
OF_IMAGES = ("image", "dataset", "origin", "images", "steps")
# What a run decides about networks that another one trained.
OF_THIS_RUN = {"checkpoint", "model", "mean", "std", "size"}

Leaves = dict[tuple[str, ...], np.ndarray]  # by their path in {"params", "batch_stats"}


def load_given(job: Job) -> Params:
    """{"params", "batch_stats"} by net, from another run's stage, or from a PyTorch file.

    Raises:
      UserError: they do not exist, or do not suit this run.
    """
    path, learned = locate(job.checkpoint), list(job.sketch.state.params)
    if path.is_dir():
        about = {key: value for key, value in job.about.items() if key not in OF_IMAGES}
        folder = find_stage(path, job.name, about)
        about = read_json(folder / STAGE)
        check_pixels(job, folder, about.get("normalisation", {}), about.get("image"))
        found = load_folder(folder)
        for net in learned:
            if shapes(found.get(net, {})) != shapes(job.sketch.state.variables[net]):
                raise UserError(
                    f"{folder} has another {net} than this run's: give one that was trained with "
                    "the same numbers of its method, and the same code"
                )
        return found
    if not all(comes_as_weights(job, net) for net in learned):
        raise UserError(f"{path} is no workdir: the stage {job.kind} comes from a run of ours")
    check_beside(job, path)
    about, advice = record_of(path), "give a network that was trained on this dataset"
    compare(path, about, {"classes": job.about["classes"]}, advice)
    check_pixels(job, path, {job.kind: about})
    return {net: load_net(job, path, net) for net in learned}


def check_earlier(job: Job, new: Collection[str]) -> None:
    """Refuses a given stage with nets from one of the `new` stages, which this run would train.

    The given stage was trained with other ones. A file of one network knows nothing of that.
    """
    nets = job.task.stage.nets
    is_network = all(nets[name].is_network for name in job.sketch.state.params)
    if is_network and not locate(job.checkpoint).is_dir():
        return
    if missing := [kind_of(origin) for origin, _ in job.origins.values() if origin in new]:
        raise UserError(
            f"{job.checkpoint} has a {job.kind} of another {missing[0]} than this run would train: "
            f"give --config.{missing[0]}.checkpoint, too, where that one is"
        )


def as_trained(config: Mapping[str, Any], kinds: Iterable[str]) -> dict[str, Any]:
    """A run's config in which the section of a stage from another workdir is that workdir's own.

    So the record of a run says how the networks of such a stage were trained, and not how this run
    would have trained them. The values of `OF_THIS_RUN` stay.

    Args:
      config: of this run.
      kinds: of its stages.

    Raises:
      UserError: a workdir holds no such stage.
    """
    found = dict(config)
    for kind in kinds:
        section = config[kind]
        if (place := section.get("checkpoint")) and (path := locate(place)).is_dir():
            folder = candidates(path, kind)[0]
            runs = [run for run in folder.parents[:2] if (run / CONFIG).exists()]
            theirs = read_json(runs[0] / CONFIG).get(kind, {}) if runs else {}
            found[kind] = section | {key: theirs[key] for key in theirs.keys() - OF_THIS_RUN}
    return found


def check_pixels(
    job: Job,
    path: epath.Path,
    written: Mapping[str, Mapping[str, Any]],
    image: Sequence[int] | None = None,
) -> None:
    """Refuses stored networks that were trained with another mean, std or size of images.

    Args:
      job: the stage of this run that uses them. A size that its config sets for a net may differ
        from the stored one.
      path: where they are stored, for the error line.
      written: the stored mean, std and image [H, W, C], by net.
      image: the stored [H, W, C] for nets without a stored image.
    """
    for net, ours in job.beside["normalisation"].items():
        theirs, section = written.get(net, {}), section_of(job, net)
        mean, std = theirs.get("mean", ours["mean"]), theirs.get("std", ours["std"])
        if (mean, std) != (ours["mean"], ours["std"]):
            raise UserError(
                f"{path} was trained with mean {mean} and std {std}, and "
                f"this run has {ours['mean']} and {ours['std']}: give them as {section}.mean and "
                f"{section}.std, or as data.mean and data.std"
            )
        size, *_ = theirs.get("image", image or job.about["image"])
        here, *_ = job.about["image"]
        if size != here and "image" not in ours:
            raise UserError(
                f"{path} was trained on images of {size} pixels, and this run has {here}: give "
                f"--config.{section}.size={size} to bring them to that size for it, or "
                f"--config.{section}.size={here} to show them as they are"
            )


def comes_as_weights(job: Job, net: str) -> bool:
    """Whether a file of weights can hold this net: the stage's network, or a network's branches."""
    section, part = job.task.stage.nets[net].place
    return bool(part or section and net == job.kind)


def load_net(job: Job, path: epath.Path, net: str) -> Params:
    """{"params", "batch_stats"} of a network, or of its branches, from a PyTorch file."""
    weights, num_classes = load_file(job, path, net)
    if num_classes != job.task.num_classes:
        raise UserError(
            f"{path} tells {num_classes} classes apart, and the dataset has "
            f"{job.task.num_classes}: give a {job.kind} of this dataset, or start from this one "
            f"and train it: --config.{section_of(job, net)}.start_from={path}"
        )
    return weights


def load_file(job: Job, path: epath.Path, net: str) -> tuple[Params, int]:
    """(variables of a network or its branches, their number of classes) from a PyTorch file.

    Weights of one architecture may fit another one, so a record beside them has the last word.
    """
    name, section = job.networks[net], section_of(job, net)
    model, theirs = torch_bridge.model_of(name), record_of(path).get("model")
    if theirs and theirs != model:
        raise UserError(
            f"{path} is a {theirs}, as the .json beside it says, and the {section} is a {model}: "
            f"use --config.{section}.model={theirs}"
        )
    shape = job.beside["normalisation"].get(net, {}).get("image", job.about["image"])
    return torch_bridge.load_weights(path, name, section, side=shape[0])


def section_of(job: Job, net: str) -> str:
    """The section of the config that names the architecture of a network or its branches."""
    section, _ = job.task.stage.nets[net].place
    return section


def check_beside(job: Job, path: epath.Path) -> None:
    """Refuses branches whose file has a network with other weights than this run's network.

    The weights of this run's network are known only after the stage is supplied.
    """
    for net in job.sketch.state.params:
        network, part = job.task.stage.nets[net].place
        ours = job.about.get(f"{network}_weights")
        if part and ours and ours != f"{checksum(load_net(job, path, network)):08x}":
            raise UserError(
                f"{path} holds branches of another {network} than this run has: give "
                f"--config.{network}.checkpoint={path}, too"
            )


class Source(NamedTuple):
    """Weights to start from, as they are stored.

    Attributes:
      path: of the file, or of the folder of the finished stage.
      nets: {"params", "batch_stats"} by net of the stage that starts from them.
      num_classes: the number of classes for which they were trained.
      seen: the mean and std with which the stage's network saw its images, as far as known.
      steps: the number of steps for which they were trained, if that is known.
    """

    path: epath.Path
    nets: Params
    num_classes: int
    seen: Mapping[str, Any]
    steps: int | None = None


class Start(NamedTuple):
    """The weights from which a stage starts, after a check that they suit it.

    Attributes:
      leaves: by net; leaves that are missing are initialised as without a start.
      record: a description for stage.json.
      line: the same for the user.
    """

    leaves: Mapping[str, Leaves]
    record: Mapping[str, Any]
    line: str


def load_start(job: Job) -> Start:
    """The start of a stage: the network in a file, or those of its nets that a finished stage has.

    Leaves whose shape depends on the number of classes are left out if that differs.

    Raises:
      UserError: the weights do not exist, or do not suit this run.
    """
    path = locate(job.start_from)
    source = from_workdir(job, path) if path.is_dir() else from_file(job, path)
    leaves = {net: fitting(job, net, own, source) for net, own in source.nets.items()}
    line = f"starts from {source.path}" + f", after {source.steps} steps" * bool(source.steps)
    if any(len(leaves[net]) < len(flatten_dict(own)) for net, own in source.nets.items()):
        line += (
            f"; its classifier is fresh, as that tells {source.num_classes} classes apart and "
            f"this dataset has {job.task.num_classes}"
        )
    ours = job.beside["normalisation"].get(main_network(job), {})
    mean, std = (source.seen.get(key, ours.get(key)) for key in ("mean", "std"))
    if (mean, std) != (ours.get("mean"), ours.get("std")):
        line += (
            f"; it was trained with mean {mean} and std {std}, and goes on with {ours['mean']} and "
            f"{ours['std']}"
        )
    if anew := [net for net in learned_nets(job) if net not in leaves]:
        line += f"; begins anew: {', '.join(anew)}"
    record = {
        "path": str(source.path),
        "num_classes": source.num_classes,
        "steps": source.steps,
        "weights": {net: f"{checksum(own):08x}" for net, own in leaves.items()},
    }
    return Start(leaves, record, line)


def learned_nets(job: Job) -> list[str]:
    return [name for name, net in job.task.stage.nets.items() if net.learns]


def main_network(job: Job) -> str | None:
    """The network that learns: the one with the stage's name, or else the only one; or None."""
    whole = [net for net in learned_nets(job) if job.task.stage.nets[net].is_network]
    if job.kind in whole:
        return job.kind
    return whole[0] if len(whole) == 1 else None


def from_file(job: Job, path: epath.Path) -> Source:
    """The network in a PyTorch file."""
    if (net := main_network(job)) is None:
        raise UserError(f"{path} is no workdir: the stage {job.kind} starts from a run of ours")
    weights, num_classes = load_file(job, path, net)
    return Source(path, {net: weights}, num_classes, record_of(path))


def from_workdir(job: Job, path: epath.Path) -> Source:
    """All nets of this stage that a finished one has; only the network if its kind is another."""
    folder, *others = candidates(path, job.name)
    if others and folder not in (path, path / job.name, path / job.kind):
        raise UserError(
            f"{path} holds several: give --config.{job.kind}.start_from="
            f"{'|'.join(map(str, (folder, *others)))}"
        )
    about, stored = read_json(folder / STAGE), load_folder(folder)
    if folder.name == job.kind:
        names = {net: net for net in learned_nets(job) if net in stored}
    else:
        network = main_network(job)
        names = {network: folder.name} if network else {}
    if not names or not set(names.values()) <= set(stored):
        raise UserError(f"{folder} holds nothing that the stage {job.kind} could start from")
    for net, name in names.items():
        if net in job.networks and about.get(f"{name}_model") != job.networks[net]:
            model, section = about.get(f"{name}_model"), section_of(job, net)
            raise UserError(
                f"{folder} holds a {model}, and the {net} is a {job.networks[net]}: use "
                f"--config.{section}.model={model}"
            )
    nets = {net: stored[name] for net, name in names.items()}
    seen = about.get("normalisation", {}).get(names.get(main_network(job)), {})
    return Source(folder, nets, about["num_classes"], seen, about["steps"])


def fitting(job: Job, net: str, own: Params, source: Source) -> Leaves:
    """The leaves of a net that have the same shapes in this run.

    Raises:
      UserError: a leaf is missing, or its shape differs for a reason other than the classes.
    """
    state, found = job.sketch.state, flatten_dict(own)
    expected = flatten_dict({"params": state.params[net], "batch_stats": state.batch_stats[net]})
    if others := expected.keys() ^ found.keys():
        raise UserError(
            f"{source.path} does not fit the {net} of this run: only one of them has "
            f"{'/'.join(min(others)[1:])}"
        )
    for path, leaf in expected.items():
        if found[path].shape != leaf.shape:
            check_classes(job, f"{net}/{'/'.join(path[1:])}", found[path].shape, leaf.shape, source)
    return {path: found[path] for path, leaf in expected.items() if found[path].shape == leaf.shape}


def check_classes(
    job: Job, name: str, theirs: tuple[int, ...], ours: tuple[int, ...], source: Source
) -> None:
    """Refuses two shapes that differ in more than the number of classes."""
    classes = job.task.num_classes
    is_scaled = len(theirs) == len(ours) and all(
        a == b or a * classes == b * source.num_classes for a, b in zip(theirs, ours, strict=True)
    )
    if not is_scaled:
        raise UserError(
            f"{source.path} does not fit this run: {name} has shape {list(theirs)}, not "
            f"{list(ours)}"
        )


def started(job: Job, start: Start | None) -> Job:
    """A supplied job with the weights of its start, if it has one; the rest stays as without it."""
    if start is None:
        return job
    fresh = first_state(job).variables
    nets = {
        net: unflatten_dict(flatten_dict(fresh[net]) | dict(leaves))
        for net, leaves in start.leaves.items()
    }
    return job._replace(start=job.start | nets, beside=job.beside | {"start": start.record})
