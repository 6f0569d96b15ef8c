"""The story of a run: data, teacher, the method's own stages, student, results."""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from flax import linen as nn
from ml_collections import ConfigDict

from sskd_jax import settings, views
from sskd_jax.axis import AXIS
from sskd_jax.data import sources
from sskd_jax.data.sources import Split
from sskd_jax.data.stream import Stream
from sskd_jax.engine import optim
from sskd_jax.engine.devices import chief, enough_memory, keep_programs, replicated
from sskd_jax.engine.evaluate import Variables, evaluation
from sskd_jax.engine.loop import Session, Stage, load_stage, run_stage, stage_key
from sskd_jax.engine.step import Frozen, Task, trace_loss
from sskd_jax.layers.norm import folded
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS
from sskd_jax.settings import Recipe
from sskd_jax.system.console import console
from sskd_jax.system.interruption import Interruption
from sskd_jax.system.paths import locate
from sskd_jax.system.quiet import silence_checkpoint_errors
from sskd_jax.types import Method, Outputs, Params, UserError, choose
from sskd_jax.workdir import report
from sskd_jax.workdir.checkpoint import checksum
from sskd_jax.workdir.logbook import Logbook, NoLogbook

Row = dict[str, Any]


class Run(NamedTuple):
    """What the stages of a run share. `held_out` is what epochs are compared on: validation or test images."""

    config: ConfigDict
    session: Session
    train: Split | Stream
    held_out: Split | Stream
    test: Split | Stream
    num_classes: int


class Learned(NamedTuple):
    """A network at the end of its stage. `best` is None where it comes from elsewhere; `about` goes into its row."""

    stage: str
    model: str
    last: Params
    about: Row
    best: Params | None = None


def run(config: ConfigDict, workdir: str, devices: Sequence[jax.Device] | None = None) -> list[Row]:
    """Trains what the config asks for, or goes on where it stopped; returns the rows of the final table.

    Raises:
      UserError: whatever the user can mend, before anything is trained where it can be known before.
      Stopped: a signal or `config.time_limit` ended it; the same call goes on.
    """
    keep_programs()
    silence_checkpoint_errors()
    devices, recipes = list(devices or jax.devices()), settings.check(config)
    console.quiet = not chief()
    with (
        enough_memory(),
        Interruption(config.time_limit, deferring=jax.process_count() > 1) as interruption,
    ):
        compute_dtype(config.dtype, "cpu")
        data, train, held_out = load_data(config)
        check_batches(config, recipes, train, len(devices))
        folder = locate(workdir)
        with Logbook(folder, config.to_dict(), devices) if chief() else NoLogbook() as book:
            session = Session(folder, devices, book, interruption, config.save_seconds)
            this = Run(config, session, train, held_out, data.test, data.num_classes)
            check_pairs(this, recipes)
            report.announce(devices, data, train.size, plan(this, recipes))
            rows = [network_row(this, learned) for learned in networks(this, recipes)]
            if chief():
                report.finish(book, rows)
    return rows


def networks(this: Run, recipes: Sequence[Recipe]) -> list[Learned]:
    """The teacher, where a method needs one, and the students."""
    teachers = [obtain_teacher(this)] if any(recipe.method.teacher for recipe in recipes) else []
    return teachers + [
        distil(this, recipe, *(teacher.last for teacher in teachers)) for recipe in recipes
    ]


def load_data(config: ConfigDict) -> tuple[sources.Dataset, Split | Stream, Split | Stream]:
    """(dataset, images to train on, images to compare epochs on)."""
    streaming = {key: config.data[key] for key in settings.STREAMING if key in config.data}
    data = sources.load(config.data.name, config.data.data_dir or None, **streaming)
    if not config.data.validation:
        return data, data.train, data.test
    return data, *sources.hold_out(data.train, config.data.validation, config.seed)


def check_batches(
    config: ConfigDict, recipes: Sequence[Recipe], train: Split, devices: int
) -> None:
    """Every stage needs whole batches that the devices divide."""
    sections = {"teacher", "student"} | {
        name for recipe in recipes for name in recipe.method.pretrain
    }
    for name in sorted(sections):
        size, images = config[name].batch_size, sources.subset_size(train, config[name].fraction)
        if size % devices:
            raise UserError(
                f"{devices} devices do not divide {name}.batch_size={size}: "
                f"use --config.{name}.batch_size={max(1, round(size / devices)) * devices}"
            )
        if size > images:
            raise UserError(
                f"{name}.batch_size={size} is more than the {images} training images: use a smaller one"
            )


def plan(this: Run, recipes: Sequence[Recipe]) -> list[Row]:
    """A row per stage: its name, network, number of parameters, where it comes from or its epochs and steps."""
    config = this.config
    stages = (
        [("teacher", "teacher", "teacher")]
        if any(recipe.method.teacher for recipe in recipes)
        else []
    )
    for recipe in recipes:
        stages += [
            (recipe.prefix + name, name, "student" if method.student else "teacher")
            for name, method in recipe.method.pretrain.items()
        ]
        stages.append((recipe.prefix + "student", "student", "student"))
    return [
        stage_row(this, name, config[section], config[owner].model)
        for name, section, owner in stages
    ]


def stage_row(this: Run, name: str, section: ConfigDict, model: str) -> Row:
    images = sources.subset_size(this.train, section.fraction)
    steps = section.epochs * (images // section.batch_size)
    source = section.get("checkpoint")
    return {
        "stage": name,
        "network": model,
        "parameters": count_parameters(this, model),
        "images": images,
        "work": f"from {source}"
        if source
        else f"{section.epochs} epochs, {steps} steps of {section.batch_size}",
    }


def check_pairs(this: Run, recipes: Sequence[Recipe]) -> None:
    """Traces every method's terms, so that one that does not suit the two networks says so before they are trained."""
    for method in (recipe.method for recipe in recipes):
        networks = [
            this.config.student.model,
            *([this.config.teacher.model] if method.teacher else []),
        ]
        outputs = [shapes(this, model, 2 * method.views)[0] for model in networks]
        for stage in (*method.pretrain.values(), method):
            jax.eval_shape(partial(trace_loss, stage), *outputs)


def count_parameters(this: Run, model: str) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(this, model)[1]["params"]))


def shapes(this: Run, model: str, rows: int = 2) -> tuple[Outputs, Params]:
    """Those of a network's outputs for so many images, and of its variables."""
    dtype = compute_dtype(this.config.dtype, this.session.devices[0].platform)
    outputs, variables = shapes_for(model, this.num_classes, dtype, this.test.shape)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), outputs
    ), variables


@cache
def shapes_for(
    model: str, num_classes: int, dtype: Any, image: tuple[int, ...]
) -> tuple[Outputs, Params]:
    """For one image [H, W, C]; tracing a network takes a fifth of a second."""
    module = MODELS[model](num_classes=num_classes, dtype=dtype)
    return jax.eval_shape(
        module.init_with_output, jax.random.key(0), jax.ShapeDtypeStruct((1, *image), jnp.float32)
    )


def network(this: Run, model: str) -> nn.Module:
    dtype = compute_dtype(this.config.dtype, this.session.devices[0].platform)
    return MODELS[model](num_classes=this.num_classes, dtype=dtype, axis_name=AXIS)


def compute_dtype(name: str, platform: str) -> Any:
    """What networks compute in; parameters, batch statistics and losses are float32 whatever it is."""
    auto = jnp.float32 if platform == "cpu" else jnp.bfloat16
    return choose({"auto": auto, "float32": jnp.float32, "bfloat16": jnp.bfloat16}, name, "dtype")


def fingerprint(tree: Params) -> str:
    """A check sum of weights, to tell that a head was trained on the very teacher that it is used with."""
    return f"{checksum(tree):08x}"


def make_stage(
    this: Run,
    name: str,
    section: ConfigDict,
    method: Method,
    weights: Mapping[str, float],
    about: Row,
    student: nn.Module | None = None,
    teacher_variables: Params | None = None,
    pretrained: Params | None = None,
    start: Params | None = None,
    learned: Any = True,
) -> Stage:
    data, seed = this.config.data, this.config.seed
    split = sources.subset(this.train, section.fraction, seed)
    steps = split.size // section.batch_size
    schedule = optim.milestone_schedule(
        section.learning_rate,
        section.milestones,
        section.decay,
        steps,
        warmup_epochs=section.warmup_epochs,
        epochs=section.epochs,
        cooldown_epochs=section.cooldown_epochs,
    )
    teacher = network(this, this.config.teacher.model) if teacher_variables else None
    colour = dict(views=method.views, mean=tuple(data.mean), std=tuple(data.std))
    task = Task(
        student,
        teacher,
        method,
        weights,
        optim.sgd(
            schedule, momentum=section.momentum, weight_decay=section.weight_decay, learned=learned
        ),
        partial(views.augment, flip=data.flip, pad=data.pad, **colour),
        partial(views.evaluate_views, **colour),
        steps,
    )
    constants = {"params": folded(**teacher_variables, dtype=teacher.dtype)} if teacher else {}
    frozen = Frozen(
        stage_key(seed, name),
        teacher=constants,
        pretrained=pretrained or {},
        **split.resident(method.remembers),
    )
    about = about | {
        "num_classes": this.num_classes,
        "image": list(split.shape),
        "steps": section.epochs * steps,
    }
    return Stage(
        name,
        about,
        task,
        frozen,
        split,
        this.held_out,
        "validation" if data.validation else "test",
        section.epochs,
        section.batch_size,
        schedule,
        seed,
        start,
    )


def network_row(this: Run, learned: Learned) -> Row:
    """What the final table says about a network: measured on every test image."""
    scores, best = classify(this, learned.model, learned.last), {}
    if learned.best:
        best["best_top1"] = classify(this, learned.model, learned.best)["top1"]
    return {
        "stage": learned.stage,
        "network": learned.model,
        "parameters": count_parameters(this, learned.model),
        "top1": scores["top1"],
        "top5": scores["top5"],
        **best,
        **learned.about,
    }


def classify(this: Run, model: str, weights: Params) -> dict[str, float]:
    """top1, top5 and loss of a network with `weights` {"params", "batch_stats"} over the test split."""
    data = this.config.data
    plain = partial(views.evaluate_views, views=1, mean=tuple(data.mean), std=tuple(data.std))
    task = Task(network(this, model), None, METHODS["scratch"](), {}, None, None, plain, 1)
    frozen = Frozen(jax.random.PRNGKey(0), teacher={}, pretrained={}, **this.test.resident())
    state = ({"student": weights["params"], "method": {}}, weights["batch_stats"])
    devices = this.session.devices
    evaluate = evaluation(
        task, devices, min(128, -(-this.test.size // len(devices))) * len(devices)
    )
    return evaluate(*(replicated(tree, devices) for tree in (state, frozen)), this.test)


def train_network(this: Run, stage: Stage, model: str, **about: Any) -> Learned:
    """Runs a stage in which a network learns."""
    trained = run_stage(stage, this.session)
    last, best = (
        {"params": params["student"], "batch_stats": stats}
        for params, stats in (trained.last, trained.best)
    )
    return Learned(stage.name, model, last, {"best_epoch": trained.best_epoch, **about}, best)


def obtain_teacher(this: Run) -> Learned:
    """The teacher, loaded or trained with cross-entropy."""
    section, paper = this.config.teacher, this.config.get("paper", {}).get("teacher")
    if section.checkpoint:
        return Learned(
            "teacher",
            section.model,
            load_teacher(this, locate(section.checkpoint)),
            {"paper": paper},
        )
    return train_network(this, teacher_stage(this), section.model, paper=paper)


def teacher_stage(this: Run) -> Stage:
    section = this.config.teacher
    return make_stage(
        this,
        "teacher",
        section,
        METHODS["scratch"](),
        {"ce": 1.0},
        {"model": section.model},
        student=network(this, section.model),
    )


def load_teacher(this: Run, path: epath.Path) -> Params:
    """{"params", "batch_stats"} from a workdir of ours or a PyTorch file."""
    model = this.config.teacher.model
    if not path.is_dir():
        from sskd_jax.exchange import torch_bridge

        weights, num_classes = torch_bridge.load_pth(path, model)
        if num_classes != this.num_classes:
            raise UserError(
                f"{path} tells {num_classes} classes apart, {this.config.data.name} has "
                f"{this.num_classes}: give a teacher of this dataset"
            )
        return weights
    state = load_stage(path, "teacher", {"model": model, "num_classes": this.num_classes})
    return {"params": state["params"]["student"], "batch_stats": state["batch_stats"]}


def distil(this: Run, recipe: Recipe, teacher: Params | None = None) -> Learned:
    """A method's own stages, then its student."""
    teacher, pretrained, start = teacher if recipe.method.teacher else None, {}, None
    for name, method in recipe.method.pretrain.items():
        params, batch_stats = pretrain(this, recipe, name, teacher, start)
        pretrained[name] = params["method"]
        start = (
            {"params": params["student"], "batch_stats": batch_stats} if method.student else start
        )
    stage = student_stage(this, recipe, teacher, pretrained, start)
    return train_network(
        this,
        stage,
        this.config.student.model,
        method=recipe.name,
        paper=this.config.get("paper", {}).get(recipe.prefix.rstrip("/") or "student"),
    )


def pretrain(
    this: Run, recipe: Recipe, name: str, teacher: Params, start: Params | None
) -> Variables:
    """What is learned in a stage of the method's own, from its last epoch or from `checkpoint`."""
    stage = pretrain_stage(this, recipe, name, teacher, start)
    if path := this.config[name].checkpoint:
        about = {
            key: value for key, value in stage.about.items() if key in ("teacher", "terms", "model")
        }
        state = load_stage(locate(path), name, about)
        return state["params"], state["batch_stats"]
    return run_stage(stage, this.session).last


def pretrain_stage(
    this: Run, recipe: Recipe, name: str, teacher: Params, start: Params | None = None
) -> Stage:
    method, model = recipe.method.pretrain[name], this.config.student.model
    about, student, learned = (
        {"teacher": fingerprint(teacher), "terms": list(method.terms)},
        None,
        True,
    )
    if method.student:
        about, student = about | {"model": model}, network(this, model)
        learned = {"student": learned_parameters(this, method), "method": True}
    return make_stage(
        this,
        recipe.prefix + name,
        this.config[name],
        method,
        dict.fromkeys(method.terms, 1.0),
        about,
        student,
        teacher,
        start=start,
        learned=learned,
    )


def learned_parameters(this: Run, method: Method) -> Params:
    """Which of the student's parameters the terms of a stage depend on: True or False in the place of each."""
    variables, teacher = (
        shapes(this, this.config.student.model)[1],
        shapes(this, this.config.teacher.model)[0],
    )
    module, image = network(this, this.config.student.model), jnp.zeros((2, *this.test.shape))
    return optim.reached(
        lambda variables, teacher: trace_loss(method, module.apply(variables, image), teacher)[0],
        variables,
        teacher,
    )[0]["params"]


def student_stage(
    this: Run,
    recipe: Recipe,
    teacher: Params | None,
    pretrained: Params,
    start: Params | None = None,
) -> Stage:
    model = this.config.student.model
    about = {
        "teacher": teacher and fingerprint(teacher),
        "model": model,
        "pretrained": fingerprint([pretrained, start]),
    }
    return make_stage(
        this,
        recipe.prefix + "student",
        this.config.student,
        recipe.method,
        recipe.weights,
        about,
        network(this, model),
        teacher,
        pretrained,
        start,
    )
