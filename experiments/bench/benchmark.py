r"""How fast the steps of a config are: in every stage, alone, in the training loop, after a start.

    python -m experiments.bench.benchmark --config=configs/cifar.py --steps=5
    python -m experiments.bench.benchmark --config=configs/cifar.py --only=student \
        --peer="python PATH"

Images are random and networks untrained. `--peer` runs another program, which prints a JSON line
with `ms_per_step` for the same work, alternately with the step of the method's last stage, and
shows how many times as fast the latter is.
"""

import json
import os
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
from absl import flags
from ml_collections import ConfigDict

from experiments.bench import command
from experiments.bench.timing import ROUNDS, timed, train_epochs
from experiments.bench.workload import (
    IMAGES,
    STEPS,
    Row,
    Steps,
    compiled,
    make_jobs,
    synthetic_run,
)
from experiments.cost import forward_operations, passes
from sskd_jax.engine.devices import Mapped, replicated
from sskd_jax.engine.evaluate import evaluation
from sskd_jax.engine.loop import Job, variables
from sskd_jax.engine.step import train_step
from sskd_jax.types import Batch, Losses, Nets, UserError
from sskd_jax.workdir.logbook import NoLogbook

ONLY = flags.DEFINE_multi_enum(
    "only",
    ["start", "student", "loop", "stages"],
    ["start", "student", "loop", "stages"],
    "What to time: starts, the last stage's step, its training loop, the other stages' steps; "
    "may be given several times.",
)
PEER = flags.DEFINE_string("peer", None, "A program to compare with.")
LAUNCH = flags.DEFINE_bool(
    "launch", False, "Do no more than a start and the first step of the last stage."
)

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


class Clock(NoLogbook):
    """A logbook that writes nothing and keeps the times at which epochs ended."""

    def __init__(self):
        self.times: list[float] = []

    def rewind(self, stage: str, step: int) -> None:
        self.times = [time.perf_counter()]

    def write(self, row: Row) -> None:
        self.times.append(time.perf_counter())


def timing_row(what: str, times: Sequence[float], images: int, **more: Any) -> Row:
    """Median and best time of something that takes in so many images."""
    median = statistics.median(times)
    return {
        "what": what,
        "ms": round(median, 3),
        "ms_best": round(min(times), 3),
        "images_per_s": round(1e3 * images / median, 1),
        **more,
    }


def step_row(steps: Steps) -> Row:
    """A stage's step, within dispatches of several."""
    job, times = steps.job, timed(lambda: steps.run(STEPS.value), STEPS.value)
    figures = arithmetic(step_operations(job), min(times), steps.devices)
    return timing_row(f"{job.kind} step", times, job.batch_size, **steps.costs, **figures)


def arithmetic(operations: float, milliseconds: float, devices: Sequence[jax.Device]) -> Row:
    """The operations of a step, and their share of what the devices could do in its time."""
    peak = next((value for kind, value in PEAK.items() if kind in devices[0].device_kind), None)
    share = peak and round(1e3 * operations / milliseconds / (peak * len(devices)), 3)
    return {"gflop": round(operations / 1e9, 2), "share_of_peak": share}


def step_operations(job: Job) -> float:
    """Floating-point operations of the nets' layers in one step on a whole batch.

    The loss itself and the optimizer are left out, and so is whatever a device computes beside to
    be faster.
    """
    nets = job.task.stage.nets
    return sum(
        passes(nets[name]) * forward_operations(job.task.modules[name], args, kwargs)
        for name, args, kwargs in net_calls(job)
    )


def net_calls(job: Job) -> list[tuple[str, Any, Any]]:
    """The calls of nets in one step on a whole batch: a net's name, and the shapes it is given."""
    calls, stage = [], job.task.stage

    def recorded(name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        calls.append((name, *jax.tree.map(shape_of, (args, kwargs))))
        return call(*args, **kwargs)

    def loss(nets: Nets, batch: Batch) -> Losses:
        return stage.loss({name: partial(recorded, name, nets[name]) for name in nets}, batch)

    task = job.task._replace(stage=stage._replace(loss=loss))
    index = jax.ShapeDtypeStruct((job.batch_size,), jnp.int32)
    jax.eval_shape(partial(train_step, task), job.sketch.state, job.frozen, index)
    return calls


def shape_of(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def alone_row(steps: Steps) -> Row:
    """A step outside of a loop, a dispatch each, as fast as they can be queued."""
    job = steps.job
    program = Mapped(partial(train_step, job.task), steps.devices, donate=True)
    costs = compiled(program, steps.state, steps.frozen, steps.order[:, 0])

    def once() -> Any:
        for i in range(STEPS.value):
            steps.state = program(steps.state, steps.frozen, steps.order[:, i])
        return steps.state.step

    jax.block_until_ready(once())
    times = timed(once, STEPS.value)
    return timing_row(f"{job.kind} step alone", times, job.batch_size, **costs)


def evaluation_row(steps: Steps) -> Row:
    """All held-out images once."""
    job, devices = steps.job, steps.devices
    evaluate = evaluation(job.task, devices, job.batch_size)
    frozen = steps.frozen._replace(**replicated(job.held_out.resident(), devices))
    once = partial(evaluate, variables(steps.state), frozen, job.held_out)
    once()
    return timing_row("evaluation", timed(once), IMAGES.value)


def loop_rows(steps: Steps) -> list[Row]:
    """Whole epochs of training, each with an evaluation and a checkpoint, and their parts alone.

    `of_bare` is the time of the same steps alone and the same evaluation, over that of an epoch.
    """
    alone, scores = alone_row(steps), evaluation_row(steps)
    epochs, count = epoch_milliseconds(steps), steps.job.task.steps_per_epoch
    bare = count * alone["ms"] + scores["ms"]
    of_bare = round(bare / statistics.median(epochs), 3)
    images = steps.job.batch_size * count
    return [alone, scores, timing_row("epoch of the loop", epochs, images, of_bare=of_bare)]


def epoch_milliseconds(steps: Steps) -> list[float]:
    """Times of ROUNDS epochs, without a first one in which programs are compiled."""
    clock = Clock()
    train_epochs(steps.job, steps.devices, clock)
    return (1e3 * np.diff(clock.times)[1:]).tolist()


def start_rows() -> list[Row]:
    """Seconds from a start to the end of the last stage's first step.

    The first one finds an empty program cache, the second one what the first has left in it.
    """
    with tempfile.TemporaryDirectory() as cache:
        return [start_row(what, cache) for what in ("first start", "second start")]


def start_row(what: str, cache: str) -> Row:
    """The time of this very command with --launch, in a process of its own."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench.benchmark", *sys.argv[1:], "--launch"],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
    )
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    return {"what": what, "ms": round(1e3 * (time.perf_counter() - began))}


def peer_row(steps: Steps) -> Row:
    """Rounds of the other program and of ours in turn.

    `ratio` is the median of how many times as long the other's step takes.
    """
    ours, theirs = [], []
    for _ in range(ROUNDS.value):
        theirs.append(peer_milliseconds(PEER.value))
        ours.append(steps.milliseconds())
    ratios = [round(other / our, 3) for other, our in zip(theirs, ours, strict=True)]
    return timing_row(
        "peer's step",
        theirs,
        steps.job.batch_size,
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
    if LAUNCH.value:
        last_steps(config)
        sys.exit()  # nothing is to be reported
    wanted = set(ONLY.value)
    rows = start_rows() if "start" in wanted else []
    return rows + stage_rows(config, wanted) if PEER.value or wanted - {"start"} else rows


def last_steps(config: ConfigDict) -> tuple[Steps, list[Job]]:
    """The steps of a method's last stage, and the stages before it."""
    devices = jax.local_devices()
    *others, last = make_jobs(synthetic_run(config, devices))
    return Steps(last, devices), others


def stage_rows(config: ConfigDict, wanted: set[str]) -> list[Row]:
    """The rows of everything but starts."""
    steps, others = last_steps(config)
    rows = [peer_row(steps)] if PEER.value else []
    if "student" in wanted:
        rows.append(step_row(steps))
    if "loop" in wanted:
        rows += loop_rows(steps)
    if "stages" in wanted:
        rows += [step_row(Steps(job, steps.devices)) for job in others]
    return rows


if __name__ == "__main__":
    command.run(measure)
