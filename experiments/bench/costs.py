r"""What every method costs compared to KD: its own parameters, its state, and a step's time.

    python -m experiments.bench.costs --config=configs/cifar.py --steps=2 --rounds=3
    python -m experiments.bench.costs --config=configs/cifar.py --method=crd --method=sskd

The training images are random, 50,000 by default, and the networks untrained. The steps of every
method are timed in turn with KD's.
"""

from collections.abc import Sequence

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from configs import cifar, common, named
from experiments.bench import command
from experiments.bench.timing import ROUNDS
from experiments.bench.workload import CLASSES, Steps, make_jobs, synthetic_run
from sskd_jax.engine.loop import Job
from sskd_jax.methods import METHODS
from sskd_jax.workdir.files import Row

METHOD = flags.DEFINE_multi_enum("method", list(METHODS), list(METHODS), "Whose costs to measure.")
TRAIN_IMAGES = flags.DEFINE_integer(
    "train_images", 50_000, "Images that a method remembers.", lower_bound=1
)
YARDSTICK = "kd"  # the method with whose step all others are compared


def method_config(config: ConfigDict, name: str) -> ConfigDict:
    """The config with another method, and with sections for those of its stages that it lacks."""
    teacher, student = config.teacher.model, config.student.model
    chosen = {"methods": (name,), "settings": {name: named.method(name, pair=(teacher, student))}}
    found = ConfigDict(named.own_stages(name, student) | config.to_dict() | chosen)
    common.scale_counted(found, cifar.EPOCHS, found.student.epochs)
    stream = found.settings[name].method
    if "task_epochs" in stream:  # as many as all tasks have
        found.student.epochs = -(-CLASSES.value // stream.task_classes) * stream.task_epochs
    return found


def method_jobs(config: ConfigDict, name: str, devices: Sequence[jax.Device]) -> list[Job]:
    """The jobs of a method's stages, on at least TRAIN_IMAGES training images."""
    return make_jobs(synthetic_run(method_config(config, name), devices, TRAIN_IMAGES.value))


def own_parameters(job: Job) -> int:
    """The number of parameters that a stage learns, without those of whole networks."""
    nets, params = job.task.stage.nets, job.sketch.state.params
    own = [params[name] for name, net in nets.items() if net.learns and not net.is_network]
    return sum(leaf.size for leaf in jax.tree.leaves(own))


def state_bytes(job: Job) -> int:
    """The bytes of the training state, and of the frozen nets that are not whole networks."""
    nets = job.task.stage.nets
    frozen = [own for name, own in job.frozen.nets.items() if not nets[name].is_network]
    return sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((job.sketch.state, frozen))
    )


def in_turn(steps: Steps, other: Steps) -> tuple[float, float]:
    """Milliseconds of a step, and their ratio to those of another one, timed in turn.

    Both numbers are medians over the rounds.
    """
    rounds = [(steps.milliseconds(), other.milliseconds()) for _ in range(ROUNDS.value)]
    times = np.array(rounds)
    return float(np.median(times[:, 0])), float(np.median(times[:, 0] / times[:, 1]))


def job_row(name: str, job: Job, yardstick: Steps) -> Row:
    """The row of what a stage of a method costs."""
    milliseconds, ratio = in_turn(Steps(job, yardstick.devices), yardstick)
    return {
        "method": name,
        "stage": job.kind,
        "own parameters": own_parameters(job),
        "MiB": round(state_bytes(job) / 2**20, 1),
        "ms": round(milliseconds),
        "times KD's": round(ratio, 2),
    }


def measure(config: ConfigDict) -> list[Row]:
    """A row for every stage of every --method, without the stages that all methods share."""
    devices = jax.local_devices()
    *_, last = method_jobs(config, YARDSTICK, devices)
    yardstick, rows = Steps(last, devices), []
    for name in METHOD.value:
        own = [job for job in method_jobs(config, name, devices) if not job.task.stage.shared]
        rows += [job_row(name, job, yardstick) for job in own]
    return rows


if __name__ == "__main__":
    command.run(measure)
