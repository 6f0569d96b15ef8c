"""Timing in several rounds, of which benchmarks show the median."""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags
from etils import epath

from sskd_jax.engine import loop
from sskd_jax.engine.loop import Job, Session, first_state
from sskd_jax.system.interruption import Interruption
from sskd_jax.workdir.checkpoint import Checkpoints
from sskd_jax.workdir.logbook import NoLogbook

ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Timings, of which the median and the best are shown.", lower_bound=1
)


def timed(once: Callable[[], Any], parts: int = 1) -> list[float]:
    """The milliseconds of `once` divided by `parts`, in every round; it must have run before."""
    times = []
    for _ in range(ROUNDS.value):
        began = time.perf_counter()
        jax.block_until_ready(once())
        times.append(1e3 * (time.perf_counter() - began) / parts)
    return times


def train_epochs(job: Job, devices: Sequence[jax.Device], book: NoLogbook) -> None:
    """Trains a stage for ROUNDS epochs, after a first one in which programs are compiled.

    `book` is called at the end of every epoch, as in a run.
    """
    job = job._replace(epochs=ROUNDS.value + 1)
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        session = Session(epath.Path(folder), devices, book, Interruption(), math.inf)
        loop.train(job, first_state(job), checkpoints, session)
