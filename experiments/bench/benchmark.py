r"""Times a config's steps, of every stage, alone and in the training loop; and starts of a run.

    python -m experiments.bench.benchmark --config=configs/cifar.py --steps=5
    python -m experiments.bench.benchmark --config=configs/cifar.py --only=student \
        --peer="python PATH"

Images are random and networks untrained. `--peer` runs another program, which must print a JSON
line with its `ms_per_step` for the same work, in turn with steps of the method's last stage, and
shows how many times as fast this package is.
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
    Steps,
    compiled,
    make_jobs,
    synthetic_run,
)
from experiments.cost import forward_operations, passes
from sskd_jax.engine.devices import Mapped, replicated
from sskd_jax.engine.evaluate import evaluation
from sskd_jax.engine.loop import Job
from sskd_jax.engine.step import train_step
from sskd_jax.types import Batch, Losses, Nets, UserError
from sskd_jax.workdir.files import Row
from sskd_jax.workdir.logbook import NoLogbook

TIMED = ["start", "student", "loop", "stages"]
ONLY = flags.DEFINE_multi_enum(
    "only",
    TIMED,
    TIMED,
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
    """A logbook that writes no files; it keeps when training began and when each epoch ended."""

    def __init__(self):
        self.times: list[float] = []

    def rewind(self, stage: str, step: int) -> None:
        self.times = [time.perf_counter()]

    def write(self, row: Row) -> None:
        self.times.append(time.perf_counter())


def timing_row(what: str, times: Sequence[float], images: int, **more: Any) -> Row:
    """The row of `what`: the median and best of `times` in milliseconds, and images per second."""
    median = statistics.median(times)
    return {
        "what": what,
        "ms": round(median, 3),
        "ms_best": round(min(times), 3),
        "images_per_s": round(1e3 * images / median, 1),
        **more,
    }


def step_row(steps: Steps) -> Row:
    """The row of a stage's step, timed in dispatches of STEPS steps."""
    job, times = steps.job, [steps.milliseconds() for _ in range(ROUNDS.value)]
    figures = arithmetic(step_operations(job), min(times), steps.devices)
    return timing_row(f"{job.kind} step", times, job.batch_size, **steps.costs, **figures)


def arithmetic(operations: float, milliseconds: float, devices: Sequence[jax.Device]) -> Row:
    """The operations of a step, and their share of the devices' peak over the step's duration."""
    peak = next((value for kind, value in PEAK.items() if kind in devices[0].device_kind), None)
    share = peak and round(1e3 * operations / milliseconds / (peak * len(devices)), 3)
    return {"gflop": round(operations / 1e9, 2), "share_of_peak": share}


def step_operations(job: Job) -> float:
    """Floating-point operations of the nets' layers in one step on a whole batch.

    The loss itself and the optimizer are left out, and so are further operations by which XLA makes
    a program faster.
    """
    stage, modules = job.task.stage, job.task.modules
    return sum(
        passes(stage.nets[name], stage) * forward_operations(modules[name], args, kwargs)
        for name, args, kwargs in net_calls(job)
    )


def net_calls(job: Job) -> list[tuple[str, Any, Any]]:
    """(net, shapes of args, shapes of kwargs) of the calls of nets in a step on a whole batch."""
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
    """The row of steps that are dispatched one by one, without waiting for each other."""
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
    """The row of one evaluation of all held-out images."""
    job, devices = steps.job, steps.devices
    evaluate = evaluation(job.task, devices, job.batch_size)
    frozen = steps.frozen._replace(**replicated(job.held_out.resident(), devices))
    once = partial(evaluate, steps.state.variables, frozen, job.held_out)
    once()
    return timing_row("evaluation", timed(once), IMAGES.value)


def loop_rows(steps: Steps) -> list[Row]:
    """The rows of a step alone, of an evaluation, and of whole epochs with both and a checkpoint.

    `of_bare` is the time of an epoch's steps alone and its evaluation, over that of the epoch.
    """
    alone, scores = alone_row(steps), evaluation_row(steps)
    epochs, count = epoch_milliseconds(steps), steps.job.task.steps_per_epoch
    bare = count * alone["ms"] + scores["ms"]
    of_bare = round(bare / statistics.median(epochs), 3)
    images = steps.job.batch_size * count
    return [alone, scores, timing_row("epoch of the loop", epochs, images, of_bare=of_bare)]


def epoch_milliseconds(steps: Steps) -> list[float]:
    """The times of ROUNDS epochs, after a first one in which programs are compiled."""
    clock = Clock()
    train_epochs(steps.job, steps.devices, clock)
    return (1e3 * np.diff(clock.times)[1:]).tolist()


def start_rows() -> list[Row]:
    """The rows of two starts, each timed in milliseconds until the last stage's first step is done.

    The first start finds an empty program cache, the second one the programs of the first.
    """
    with tempfile.TemporaryDirectory() as cache:
        return [start_row(what, cache) for what in ("first start", "second start")]


def start_row(what: str, cache: str) -> Row:
    """The row of a start: this command with --launch, as a process that uses the folder `cache`."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench.benchmark", *sys.argv[1:], "--launch"],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
    )
    if done.returncode:
        sys.exit(done.returncode)  # the process has printed why
    return {"what": what, "ms": round(1e3 * (time.perf_counter() - began))}


def peer_row(steps: Steps) -> Row:
    """The row of the --peer program, timed in turn with the steps of this package.

    `ratio` is the median over the rounds of the peer's time per step, divided by this package's.
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


def peer_milliseconds(line: str) -> float:
    """Runs the command line of --peer; returns `ms_per_step` from the last line that it prints."""
    try:
        done = subprocess.run(shlex.split(line), stdout=subprocess.PIPE, text=True)
        return float(json.loads(done.stdout.strip().splitlines()[-1])["ms_per_step"])
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"--peer={line} printed no JSON line with ms_per_step") from error


def measure(config: ConfigDict) -> list[Row]:
    """The rows of everything that --only and --peer ask for."""
    if LAUNCH.value:
        last_steps(config)
        sys.exit()  # nothing is to be reported
    wanted = set(ONLY.value)
    rows = start_rows() if "start" in wanted else []
    return rows + stage_rows(config, wanted) if PEER.value or wanted - {"start"} else rows


def last_steps(config: ConfigDict) -> tuple[Steps, list[Job]]:
    """The steps of the last stage of the config's last method, and the jobs of earlier stages."""
    devices = jax.local_devices()
    *others, last = make_jobs(synthetic_run(config, devices))
    return Steps(last, devices), others


def stage_rows(config: ConfigDict, wanted: set[str]) -> list[Row]:
    """The rows of everything that is asked for, except starts."""
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
