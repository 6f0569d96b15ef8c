r"""How fast the steps of a config are: in every stage, alone, in the whole training loop, and after a start.

    python -m experiments.bench.benchmark --config=configs/cifar.py:teacher=wrn_40_2,student=wrn_16_2 --steps=5
    python -m experiments.bench.benchmark --config=configs/cifar.py --only=student --peer="python PATH"

Images are random and networks untrained. `--peer` runs another program, which prints a JSON line with `ms_per_step` for
the same work, alternately with the student's step, and shows how many times as fast the latter is.
"""

import json
import math
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict

from sskd_jax import main as cli
from sskd_jax import settings, train
from sskd_jax.data.sources import Split
from sskd_jax.engine import loop as stages
from sskd_jax.engine.devices import Mapped, keep_programs, replicated
from sskd_jax.engine.evaluate import evaluation
from sskd_jax.engine.loop import Stage, epoch_order
from sskd_jax.engine.step import initial_state, train_program, train_step
from sskd_jax.system.console import table
from sskd_jax.system.interruption import Interruption
from sskd_jax.types import UserError
from sskd_jax.workdir.checkpoint import Checkpoints
from sskd_jax.workdir.logbook import NoLogbook, environment

STEPS = flags.DEFINE_integer(
    "steps", 10, "Steps per timing, and per epoch of the training loop.", lower_bound=1
)
ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Timings, of which the median and the best are shown.", lower_bound=1
)
IMAGES = flags.DEFINE_integer("images", 256, "Images of an evaluation.", lower_bound=1)
SIZE = flags.DEFINE_integer("size", 32, "Height and width of an image.", lower_bound=8)
CLASSES = flags.DEFINE_integer("classes", 100, "Number of classes.", lower_bound=2)
ONLY = flags.DEFINE_multi_enum(
    "only",
    ["start", "student", "loop", "stages"],
    ["start", "student", "loop", "stages"],
    "What to time; may be given several times.",
)
PEER = flags.DEFINE_string("peer", None, "A program to compare with.")
OUT = flags.DEFINE_string("out", "benchmark.json", "Where the figures go.")
LAUNCH = flags.DEFINE_bool("launch", False, "Do no more than a start and the student's first step.")

# Dense bfloat16 operations per second of a device, as its maker states them.
PEAK = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}

Row = dict[str, Any]


class Clock(NoLogbook):
    """In a logbook's place: when each epoch was over."""

    def __init__(self):
        self.times: list[float] = []

    def rewind(self, stage: str, step: int) -> None:
        self.times = [time.perf_counter()]

    def write(self, row: Row) -> None:
        self.times.append(time.perf_counter())


def synthetic_run(config: ConfigDict, images: int = 0) -> train.Run:
    """A run on random images, as many as the largest stage needs for an epoch or more; nothing is read or written."""
    rng = np.random.default_rng(0)

    def split(images: int) -> Split:
        return Split(
            rng.integers(0, 256, (images, SIZE.value, SIZE.value, 3), dtype=np.uint8),
            rng.integers(0, CLASSES.value, images).astype(np.int32),
        )

    batch = max(
        section.batch_size
        for section in config.values()
        if "batch_size" in getattr(section, "keys", dict)()
    )
    held_out = split(IMAGES.value)
    session = stages.Session(pathlib.Path(), jax.local_devices(), Clock(), Interruption(), math.inf)
    return train.Run(
        config, session, split(max(images, STEPS.value * batch)), held_out, held_out, CLASSES.value
    )


def make_stages(this: train.Run) -> dict[str, Stage]:
    """The student's stage (of the last method, if there are several), the teacher's and the method's own."""
    recipe = settings.check(this.config)[-1]._replace(prefix="")
    teacher, found, pretrained = None, {}, {}
    if recipe.method.teacher:
        outputs, variables = zip(
            *(train.shapes(this, this.config[owner].model) for owner in ("student", "teacher")),
            strict=True,
        )
        teacher, found["teacher"] = arbitrary(variables[1]), train.teacher_stage(this)
    for name, method in recipe.method.pretrain.items():
        found[name] = train.pretrain_stage(this, recipe, name, teacher)
        pretrained[name] = arbitrary(jax.eval_shape(method.init, jax.random.key(0), *outputs))
    return {"student": train.student_stage(this, recipe, teacher, pretrained)} | found


def arbitrary(shapes: Any) -> Any:
    """Numbers in place of trained ones, of which a step takes as long: ones in vectors, He's normal in kernels."""
    rng = np.random.default_rng(1)

    def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        kernel = rng.normal(0, np.sqrt(2 / max(1, np.prod(leaf.shape[:-1]))), leaf.shape)
        return (kernel if len(leaf.shape) > 1 else np.ones(leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(fill, shapes)


class Steps:
    """A stage whose program is compiled and has taken its first step."""

    def __init__(self, this: train.Run, stage: Stage):
        state = initial_state(stage.task, jax.random.key(0), stage.frozen)
        self.state, self.frozen = (
            replicated(tree, this.session.devices) for tree in (state, stage.frozen)
        )
        self.order = epoch_order(stage, 0, len(this.session.devices))
        self.program = train_program(stage.task, this.session.devices)
        self.costs = compiled(self.program, self.state, self.frozen, self.order, 0, 1)
        jax.block_until_ready(self.run(1))

    def run(self, steps: int) -> Any:
        self.state, spoiled = self.program(self.state, self.frozen, self.order, 0, steps)
        return spoiled

    def milliseconds(self) -> float:
        """Of a step, by a dispatch of STEPS."""
        began = time.perf_counter()
        jax.block_until_ready(self.run(STEPS.value))
        return 1e3 * (time.perf_counter() - began) / STEPS.value


def compiled(program: Mapped, *args: Any) -> Row:
    """The seconds that it takes to compile the program and the memory that it needs."""
    began = time.perf_counter()
    memory = program.compile(*args).memory_analysis()
    return {
        "compile_s": round(time.perf_counter() - began, 2),
        "memory_mib": round((memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20),
    }


def timed(once: Callable[[], Any], parts: int = 1) -> list[float]:
    """Milliseconds that one of the `parts` of `once` takes, in every round. It has run before."""
    times = []
    for _ in range(ROUNDS.value):
        began = time.perf_counter()
        jax.block_until_ready(once())
        times.append(1e3 * (time.perf_counter() - began) / parts)
    return times


def row(what: str, times: Sequence[float], images: int, **more: Any) -> Row:
    median = statistics.median(times)
    return {
        "what": what,
        "ms": round(median, 3),
        "ms_best": round(min(times), 3),
        "images_per_s": round(1e3 * images / median, 1),
        **more,
    }


def step_row(this: train.Run, name: str, stage: Stage, steps: Steps) -> Row:
    times = timed(lambda: steps.run(STEPS.value), STEPS.value)
    return row(
        f"{name} step",
        times,
        stage.batch_size,
        **steps.costs,
        **arithmetic(this, stage, min(times)),
    )


def arithmetic(this: train.Run, stage: Stage, milliseconds: float) -> Row:
    """What the networks' layers compute in a step, forward once and backward twice, and its share of the peak."""
    image, task = this.test.image[:1].astype(np.float32), stage.task
    operations = 3 * forward_arithmetic(task.student, image) + forward_arithmetic(
        task.teacher, image
    )
    operations *= stage.batch_size * task.method.views
    peak = next(
        (value for kind, value in PEAK.items() if kind in this.session.devices[0].device_kind), None
    )
    share = peak and round(1e3 * operations / milliseconds / (peak * len(this.session.devices)), 3)
    return {"gflop": round(operations / 1e9, 2), "share_of_peak": share}


def forward_arithmetic(network: Any, image: np.ndarray) -> float:
    """Floating-point operations of a network's forward pass over one image."""
    if network is None:
        return 0.0
    network = network.clone(axis_name=None, dtype=jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    return (
        jax.jit(lambda variables: network.apply(variables, image).logits)
        .lower(variables)
        .cost_analysis()["flops"]
    )


def alone_row(this: train.Run, stage: Stage, steps: Steps) -> Row:
    """The student's step outside of a loop, a dispatch each, as fast as they can be queued."""
    program = Mapped(partial(train_step, stage.task), this.session.devices, donate=True)
    costs = compiled(program, steps.state, steps.frozen, steps.order[:, 0])

    def once() -> Any:
        for i in range(STEPS.value):
            steps.state = program(steps.state, steps.frozen, steps.order[:, i])
        return steps.state.step

    jax.block_until_ready(once())
    return row("student step alone", timed(once, STEPS.value), stage.batch_size, **costs)


def evaluation_row(this: train.Run, stage: Stage, steps: Steps) -> Row:
    program = evaluation(stage.task, this.session.devices, stage.batch_size)
    held_out = steps.frozen._replace(**replicated(this.held_out.resident(), this.session.devices))
    once = partial(program, (steps.state.params, steps.state.batch_stats), held_out, this.held_out)
    once()
    return row("evaluation", timed(once), IMAGES.value)


def loop_rows(this: train.Run, stage: Stage, steps: Steps) -> list[Row]:
    """Whole epochs of training with dispatches, progress, an evaluation and a checkpoint each, and their parts alone.

    `of_bare` is the time of the same steps alone and the same evaluation, over that of an epoch.
    """
    alone, scores = alone_row(this, stage, steps), evaluation_row(this, stage, steps)
    stage = stage._replace(epochs=ROUNDS.value + 1)
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        state = initial_state(stage.task, jax.random.key(0), stage.frozen)
        stages.train(stage, state, checkpoints, this.session)
    epochs = (
        1e3 * np.diff(this.session.book.times)[1:]
    )  # without the one in which programs were compiled
    bare = STEPS.value * alone["ms"] + scores["ms"]
    epoch = row(
        "epoch of the loop",
        epochs,
        stage.batch_size * STEPS.value,
        of_bare=round(bare / statistics.median(epochs), 3),
    )
    return [alone, scores, epoch]


def start_rows() -> list[Row]:
    """Seconds from a start to the end of the student's first step: in an empty program cache, and once more."""
    with tempfile.TemporaryDirectory() as cache:
        return [start_row(what, cache) for what in ("first start", "second start")]


def start_row(what: str, cache: str) -> Row:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench.benchmark", *sys.argv[1:], "--launch"],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
    )
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    return {"what": what, "ms": round(1e3 * (time.perf_counter() - began))}


def peer_row(stage: Stage, steps: Steps) -> Row:
    """Rounds of the other program and of ours in turn; `ratio` is the median of its times over ours."""
    ours, theirs = [], []
    for _ in range(ROUNDS.value):
        theirs.append(peer_milliseconds(PEER.value))
        ours.append(steps.milliseconds())
    ratios = [round(other / our, 3) for other, our in zip(theirs, ours, strict=True)]
    return row(
        "peer's step",
        theirs,
        stage.batch_size,
        ours_ms=round(statistics.median(ours), 3),
        ratios=ratios,
        ratio=round(statistics.median(ratios), 3),
    )


def peer_milliseconds(command: str) -> float:
    """ms_per_step in the last line that the program prints."""
    try:
        done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout.strip().splitlines()[-1])["ms_per_step"]
    except (OSError, IndexError, KeyError, ValueError) as error:
        raise UserError(f"--peer={command} printed no JSON line with ms_per_step") from error


def measure(config: ConfigDict) -> list[Row]:
    """A row for everything that is asked for."""
    rows = start_rows() if "start" in ONLY.value and not LAUNCH.value else []
    this = synthetic_run(config)
    found = make_stages(this)
    stage = found.pop("student")
    steps = Steps(this, stage)
    if LAUNCH.value:
        return []
    if PEER.value:
        rows.append(peer_row(stage, steps))
    if "student" in ONLY.value:
        rows.append(step_row(this, "student", stage, steps))
    if "loop" in ONLY.value:
        rows += loop_rows(this, stage, steps)
    if "stages" in ONLY.value:
        rows += [step_row(this, name, other, Steps(this, other)) for name, other in found.items()]
    return rows


def report(config: ConfigDict, rows: list[Row]) -> None:
    """A table on the screen; the same with the config and the environment as JSON."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table(
        OUT.value,
        columns,
        [["" if row.get(key) is None else str(row[key]) for key in columns] for row in rows],
    )
    content = {
        "config": config.to_dict(),
        "environment": environment(jax.local_devices()),
        "rows": rows,
    }
    pathlib.Path(OUT.value).write_text(json.dumps(content, indent=2) + "\n")


def main(argv: Sequence[str], measure: Callable[[ConfigDict], list[Row]] = measure) -> None:
    """Measures and reports, or says in one line why it can't."""
    logging.set_verbosity(logging.ERROR)
    keep_programs()
    try:
        rows = measure(cli.CONFIG.value)
    except UserError as error:
        cli.fail(str(error))
    if not LAUNCH.value:
        report(cli.CONFIG.value, rows)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse)
