"""Plans a run: all stages of all methods are traced and checked before anything is trained."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from sskd_jax import sections
from sskd_jax.data import sources
from sskd_jax.data.scenarios import hold_out, scenario
from sskd_jax.data.sources import Split
from sskd_jax.data.stream import Stream
from sskd_jax.engine.begin import Sketch, check_memory_fits, sketch
from sskd_jax.engine.evaluate import batch_scores
from sskd_jax.engine.loop import Job, epoch_order
from sskd_jax.engine.order import stage_key
from sskd_jax.engine.step import check_step
from sskd_jax.engine.task import Frozen, Task
from sskd_jax.layers.norm import folded
from sskd_jax.models.build import Adapted
from sskd_jax.settings import Recipe
from sskd_jax.system.precision import compute_dtype
from sskd_jax.types import Params, Stage, UserError, blamed, choose, shuffled
from sskd_jax.workdir.checkpoint import checksum
from sskd_jax.workdir.files import Row

Origins = Mapping[str, tuple[str, str]]  # by net, the (job, net) from which its variables come


class Run(NamedTuple):
    """What the stages of a run share.

    Attributes:
      config: the whole config.
      data: the dataset as loaded.
      train: the training images, without those that are held out for validation.
      held_out: the images on which epochs are compared: validation or test images.
      dtype: in which networks compute.
      devices: how many there are.
    """

    config: ConfigDict
    data: sources.Dataset
    train: Split | Stream
    held_out: Split | Stream
    dtype: Any
    devices: int


def load(config: ConfigDict, devices: Sequence[jax.Device]) -> Run:
    """Loads the data of a run; returns it with the rest that its stages share."""
    dtype = compute_dtype(config.dtype, devices[0])
    data = sections.dataset_of(config.data)
    train, held_out = data.train, data.test
    if config.data.validation:
        train, held_out = hold_out(train, config.data.validation, config.seed)
    if not data.fingerprint:
        found = f"{checksum([data.train, data.test]):08x}"
        data = data._replace(fingerprint={"dataset": found})
    return Run(config, data, train, held_out, dtype, len(devices))


def plan(run: Run, recipes: Sequence[Recipe]) -> list[Job]:
    """The jobs of all stages of all methods, in order; a shared stage comes once, and first.

    Raises:
      UserError: a batch size does not suit the devices or the images, or a stage its networks.
    """
    jobs: dict[str, Job] = {}
    for recipe in recipes:
        names: dict[str, str] = {}  # of the method's jobs, by kind of stage
        for kind, stage in recipe.method.items():
            name = job_name(jobs, recipe.prefix, kind, stage)
            if name not in jobs:
                origins = origins_of(stage, names)
                check_shared(kind, stage, origins, jobs)
                job = make_job(run, recipe, kind, name, origins, jobs)
                own_code = [one for one in (recipe.name, *job.networks.values()) if ":" in one]
                with blamed(f"{name} with", own_code):
                    check_order(job, run.devices)
                    check_memory_fits(job.task, job.frozen, job.start, job.batch_size, run.devices)
                    if own_code:  # which may fail in training, or on several devices, alone
                        state = job.sketch.state
                        check_step(job.task, state, job.frozen, job.batch_size, run.devices)
                jobs[name] = job
            names[kind] = name
    return sorted(jobs.values(), key=lambda job: not job.task.stage.shared)


def up_to(kind: str, jobs: list[Job]) -> list[Job]:
    """The jobs up to the last one of a kind of stage; all of them if the kind is "".

    Raises:
      UserError: no job is of this kind.
    """
    kinds = [job.kind for job in jobs]
    if not kind:
        return jobs
    choose(dict.fromkeys(kinds), kind, "stage to end with")
    return jobs[: len(kinds) - kinds[::-1].index(kind)]


def job_name(jobs: Mapping[str, Job], prefix: str, kind: str, stage: Stage) -> str:
    """`prefix` + `kind`, or `kind` alone for a shared stage, unless another stage has that name."""
    is_free = kind not in jobs or jobs[kind].task.stage is stage
    return kind if stage.shared and is_free else prefix + kind


def origins_of(stage: Stage, names: Mapping[str, str]) -> Origins:
    """The origins of the nets that start from an earlier stage; `names` gives its job by kind."""
    found = {}
    for name, net in stage.nets.items():
        if net.start:
            kind, _, origin = net.start.partition("/")
            found[name] = choose(names, kind, f"stage to start the net {name} from"), origin
    return found


def check_shared(kind: str, stage: Stage, origins: Origins, jobs: Mapping[str, Job]) -> None:
    """Refuses a shared stage that starts from one that is not shared: it would differ by method."""
    for job, _ in origins.values():
        if stage.shared and not jobs[job].task.stage.shared:
            raise UserError(
                f"the stage {kind} is shared, but starts from the stage {jobs[job].kind}, which is "
                "not: have both shared, or none"
            )


def check_order(job: Job, devices: int) -> None:
    """Checks that an order other than `shuffled` gives enough images in every epoch."""
    order = job.task.stage.order
    if hasattr(order, "check"):
        order.check(job.images, job.epochs)
    if order is not shuffled:
        for epoch in range(job.epochs):
            epoch_order(job, epoch, devices)


def make_job(
    run: Run, recipe: Recipe, kind: str, name: str, origins: Origins, jobs: Mapping[str, Job]
) -> Job:
    """The job of a method's stage, traced with variables of the shapes that earlier jobs leave."""
    config, section, stage = run.config, run.config[kind], recipe.method[kind]
    images = scenario(run.train, config.seed, **section.images)
    networks = sections.networks_of(config, stage)
    blank = {net: blank_variables(jobs, *origin) for net, origin in origins.items()}
    resident = images.resident(labelled=stage.memory is not None)
    with blamed(f"{name} with", [recipe.name, *networks.values()]):
        task = make_task(run, recipe, kind, images)
        frozen = Frozen(stage_key(config.seed, kind), **resident, nets={})
        frozen, start = supplied(task, frozen, blank)
        found = sketch(task, frozen, start)
        task = task._replace(reached=found.reached, scores=score_names(task, found, frozen))
    about = {
        "num_classes": run.data.num_classes,
        "image": list(images.shape),
        "steps": section.epochs * task.steps_per_epoch,
        "terms": list(stage.terms),
        **run.data.fingerprint,
        "images": told_images(images),
        "classes": list(run.data.classes),
    }
    if start_from := section.get("start_from", ""):
        about["start_from"] = start_from
        check_start(kind, section, stage, origins, jobs)
    return Job(
        name=name,
        kind=kind,
        about=about | {f"{net}_model": model for net, model in networks.items()},
        networks=networks,
        task=task,
        sketch=found,
        origins=origins,
        frozen=frozen,
        start=start,
        images=images,
        held_out=run.held_out,
        held_out_name="validation" if config.data.validation else "test",
        epochs=section.epochs,
        batch_size=section.batch_size,
        learning_rate=sections.schedule_of(section, task.steps_per_epoch),
        seed=config.seed,
        checkpoint=section.get("checkpoint", ""),
        start_from=start_from,
        remarks=remarks_of(config, recipe, kind, name),
        beside={
            "normalisation": sections.normalisations(config, stage),
            "made": [net for net, own in stage.nets.items() if own.made],
        },
    )


def told_images(images: Split | Stream) -> str:
    """How many images there are, and the checksum of their labels, if they are in memory."""
    if isinstance(images, Stream):
        return str(images.size)
    return f"{images.size} with labels {checksum(images.label):08x}"


def make_task(run: Run, recipe: Recipe, kind: str, images: Split | Stream) -> Task:
    """The `Task` of a stage, without the fields that are only known after a trace."""
    config, section, stage = run.config, run.config[kind], recipe.method[kind]
    steps = sections.steps_per_epoch(kind, section, stage, images, run.devices)
    schedule = sections.schedule_of(section, steps)
    return Task(
        stage=stage,
        modules={
            net: sections.module_of(config, own, run.data.num_classes, run.dtype)
            for net, own in stage.nets.items()
        },
        weights=recipe.weights_of(kind),
        optimizer=sections.optimizer_of(kind, section, stage, schedule),
        optics=sections.optics_of(config.data),
        num_classes=run.data.num_classes,
        steps_per_epoch=steps,
        counts=partial(sections.class_counts, images, run.data.num_classes),
    )


def check_start(
    kind: str, section: ConfigDict, stage: Stage, origins: Origins, jobs: Mapping[str, Job]
) -> None:
    """Refuses a `start_from` that has no effect, or that makes an earlier stage's training vain."""
    if section.get("checkpoint"):
        raise UserError(
            f"{kind}.checkpoint stands in place of training, so {kind}.start_from would have no "
            "effect: give one of them"
        )
    for net, (origin, _) in origins.items():
        before = jobs[origin].kind
        if stage.nets[net].learns and not jobs[origin].checkpoint:
            raise UserError(
                f"the {net} goes on from the stage {before}, so {kind}.start_from would leave that "
                f"without effect: give {before}.start_from, or {before}.checkpoint, too"
            )


def remarks_of(config: ConfigDict, recipe: Recipe, kind: str, name: str) -> Row:
    """The method of a job, if not shared, and its `start_from`, or else the published accuracy."""
    remarks = {} if recipe.method[kind].shared else {"method": recipe.name}
    *_, last = recipe.method
    key = name.removesuffix(f"/{kind}") if kind == last else name
    if start := config[kind].get("start_from"):
        return remarks | {"start_from": start}  # not what was published
    published = published_for(config)
    return remarks | ({"paper": published[key]} if key in published else {})


def published_for(config: ConfigDict) -> Mapping[str, float]:
    """The config's published accuracies; none if they are of other data or networks than its own.

    They are chosen before flags such as --config.data.name=cifar10 change these.
    """
    published = config.get("paper", {})
    of = {part: name for part, name in published.get("of", {}).items() if part in config}
    ours = {part: config[part].get("model") or config[part].name for part in of}
    return published if ours == of else {}


def blank_variables(jobs: Mapping[str, Job], job: str, net: str) -> Params:
    """Zeros in the shapes of the variables that a job leaves for a net."""
    shapes = jobs[job].sketch.state.variables
    shapes = choose(shapes, net, f"net of the stage {jobs[job].kind}")
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def supplied(task: Task, frozen: Frozen, variables: Params) -> tuple[Frozen, Params]:
    """(frozen, start) with the variables that earlier stages left, by net.

    The weights of a frozen net are `folded`, so that evaluation need not do so in every step;
    those of a user's own network are not, as its batch norm may be another one.
    """
    constants, start = {}, {}
    for name, own in variables.items():
        net, module = task.stage.nets[name], task.modules[name]
        if not net.is_frozen:
            start[name] = own
        elif is_ours(module):
            dtype = getattr(module, "dtype", jnp.float32)
            constants[name] = {"params": folded(**own, dtype=dtype)}
        else:
            constants[name] = own
    return frozen._replace(nets=constants), start


def is_ours(module: nn.Module | Adapted) -> bool:
    """Whether a network is one of this package, and not of a user's."""
    network = module.module if isinstance(module, Adapted) else module
    return type(network).__module__.startswith("sskd_jax.")


def supply(job: Job, finished: Mapping[str, Params]) -> Job:
    """The job with the {"params", "batch_stats"} that earlier jobs left, by job and net."""
    left = {net: finished[origin][source] for net, (origin, source) in job.origins.items()}
    frozen, start = supplied(job.task, job.frozen, left)
    about = {f"{net}_weights": f"{checksum(own):08x}" for net, own in left.items()}
    return job._replace(frozen=frozen, start=start, about=job.about | about)


def score_names(task: Task, found: Sketch, frozen: Frozen) -> tuple[str, ...]:
    """The names of a stage's scores in its own order; JAX sorts the output of a program."""
    names: list[str] = []
    stage = task.stage

    def scores(*args: Any) -> Any:
        scored = stage.scores(*args)
        names.extend(scored)
        return scored

    traced = task._replace(stage=stage._replace(scores=scores))
    shape, index = frozen.image.shape[1:], np.zeros(2, np.int32)
    examples = frozen._replace(image=np.zeros((2, *shape), np.uint8), label=index)
    program = partial(batch_scores, traced)
    jax.eval_shape(program, found.state.variables, examples, index, index == 0)
    return tuple(names)


def parameters(job: Job, *nets: str) -> int:
    """The number of parameters in some of a job's nets, by default in those that learn."""
    chosen = nets or [name for name, net in job.task.stage.nets.items() if net.learns]
    trees = [job.sketch.state.params[name] for name in chosen]
    return sum(leaf.size for leaf in jax.tree.leaves(trees))


def described(job: Job) -> Row:
    """The row of a job in the table of stages that is shown before training."""
    own = [name for name, net in job.task.stage.nets.items() if net.learns or net.made]
    epochs = "1 epoch" if job.epochs == 1 else f"{job.epochs} epochs"
    work = f"{epochs}, {job.total_steps} steps of {job.batch_size}"
    if job.start_from:
        work += f", from {job.start_from}"
    return {
        "stage": job.name,
        "network": ", ".join(job.networks.get(name, name) for name in own),
        "parameters": parameters(job),
        "images": job.images.size,
        "work": f"from {job.checkpoint}" if job.checkpoint else work,
    }
