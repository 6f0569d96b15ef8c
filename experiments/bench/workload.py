"""The work that benchmarks measure: a run on random images, and its stages, untrained."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from sskd_jax import plan, settings
from sskd_jax.data.sources import Dataset, Split
from sskd_jax.engine.devices import Mapped, replicated
from sskd_jax.engine.loop import Job, epoch_order, first_state
from sskd_jax.engine.step import train_program
from sskd_jax.plan import Run
from sskd_jax.system.precision import compute_dtype
from sskd_jax.workdir.files import Row

STEPS = flags.DEFINE_integer(
    "steps", 10, "Steps per timing, and per epoch of the training loop.", lower_bound=1
)
IMAGES = flags.DEFINE_integer("images", 256, "Images of an evaluation.", lower_bound=1)
SIZE = flags.DEFINE_integer("size", 32, "Height and width of an image.", lower_bound=8)
CLASSES = flags.DEFINE_integer("classes", 100, "Number of classes.", lower_bound=2)


def synthetic_run(config: ConfigDict, devices: Sequence[jax.Device], images: int = 0) -> Run:
    """A run on random images, whose stages all have a share of 1; no files are read or written.

    There are as many training images as STEPS of the largest batches hold, or `images` if that is
    more.
    """
    config = config.copy_and_resolve_references()
    sections = (part for part in config.values() if isinstance(part, ConfigDict))
    stages = [section for section in sections if "batch_size" in section]
    for section in stages:
        section.images.share = 1.0
    largest = max(section.batch_size for section in stages)
    rng = np.random.default_rng(0)
    train = random_split(rng, max(images, STEPS.value * largest))
    held_out = random_split(rng, IMAGES.value)
    dtype = compute_dtype(config.dtype, devices[0])
    data = Dataset(train, held_out, CLASSES.value)
    return Run(config, data, train, held_out, dtype, len(devices))


def random_split(rng: np.random.Generator, images: int) -> Split:
    """Random images and labels, drawn from `rng`."""
    shape = images, SIZE.value, SIZE.value, 3
    label = rng.integers(0, CLASSES.value, images)
    return Split(rng.integers(0, 256, shape, dtype=np.uint8), label.astype(np.int32))


def make_jobs(run: Run) -> list[Job]:
    """The jobs of the config's last method in order; earlier stages give `arbitrary` weights."""
    *_, recipe = settings.check(run.config)
    finished, jobs = {}, []
    for job in plan.plan(run, [recipe._replace(prefix="")]):
        jobs.append(plan.supply(job, finished))
        finished[job.name] = arbitrary(job.sketch.state.variables)
    return jobs


def arbitrary(shapes: Any) -> Any:
    """Arrays of these shapes in place of trained weights, as a step takes as long with them.

    Vectors hold ones, and kernels numbers from He's normal distribution.
    """
    rng = np.random.default_rng(1)

    def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(leaf.shape) < 2:
            return np.ones(leaf.shape, leaf.dtype)
        inputs = max(1, np.prod(leaf.shape[:-1]))
        return rng.normal(0, np.sqrt(2 / inputs), leaf.shape).astype(leaf.dtype)

    return jax.tree.map(fill, shapes)


class Steps:
    """A stage whose program is compiled and has taken its first step.

    Attributes:
      job: the stage.
      state: after the last step, stacked over the devices.
      frozen: the arrays that the steps read, stacked likewise.
      order: the images of an epoch's steps, i32[devices, steps, n].
      costs: of the program, as `compiled` returns them.
    """

    def __init__(self, job: Job, devices: Sequence[jax.Device]):
        self.job, self.devices = job, devices
        self.state, self.frozen = replicated((first_state(job), job.frozen), devices)
        self.order = epoch_order(job, 0, len(devices))
        self.program = train_program(job.task, devices)
        self.costs = compiled(self.program, self.state, self.frozen, self.order, 0, 1)
        jax.block_until_ready(self.run(1))

    def run(self, steps: int) -> Any:
        """Dispatches this many steps at once; the returned arrays are ready when they are done."""
        self.state, health = self.program(self.state, self.frozen, self.order, 0, steps)
        return health

    def milliseconds(self) -> float:
        """The milliseconds of a step, from one dispatch of STEPS steps."""
        began = time.perf_counter()
        jax.block_until_ready(self.run(STEPS.value))
        return 1e3 * (time.perf_counter() - began) / STEPS.value


def compiled(program: Mapped, *args: Any) -> Row:
    """Compiles a program; returns the seconds that this took and the memory that it needs."""
    began = time.perf_counter()
    memory = program.compile(*args).memory_analysis()
    seconds = time.perf_counter() - began
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return {"compile_s": round(seconds, 2), "memory_mib": round(size / 2**20)}
