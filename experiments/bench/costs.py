r"""What every method costs beside KD: parameters and state of its own, and the time of a step.

    python -m experiments.bench.costs --config=configs/cifar.py --steps=2 --rounds=3
    python -m experiments.bench.costs --config=configs/cifar.py --method=crd --method=sskd

Images are random, 50,000 in all, and networks untrained. A step of every method is timed in turn
with one of KD's.
"""

from collections.abc import Sequence

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from configs import methods
from experiments.bench import command
from experiments.bench.timing import ROUNDS
from experiments.bench.workload import Row, Steps, make_jobs, synthetic_run
from sskd_jax.engine.loop import Job
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS

METHOD = flags.DEFINE_multi_enum("method", list(METHODS), list(METHODS), "Whose costs to measure.")
TRAIN_IMAGES = flags.DEFINE_integer(
    "train_images", 50_000, "Images that a method remembers.", lower_bound=1
)
YARDSTICK = "kd"  # the method whose step all others are compared with


def method_config(config: ConfigDict, name: str) -> ConfigDict:
    """The config with another method, and with the stages of its own that it lacks."""
    teacher, student = config.teacher.model, config.student.model
    chosen = {"methods": (name,), "settings": {name: methods.method(name, pair=(teacher, student))}}
    return ConfigDict(methods.own_stages(name, student) | config.to_dict() | chosen)


def method_jobs(config: ConfigDict, name: str, devices: Sequence[jax.Device]) -> list[Job]:
    """The stages of a method on as many images as it would remember."""
    return make_jobs(synthetic_run(method_config(config, name), devices, TRAIN_IMAGES.value))


def is_network(job: Job, net: str) -> bool:
    """Whether a net of a stage is a whole network."""
    return job.networks.get(net) in MODELS


def own_parameters(job: Job) -> int:
    """How many numbers a stage learns beside those of whole networks."""
    nets, params = job.task.stage.nets, job.sketch.state.params
    own = [params[name] for name in nets if nets[name].learns and not is_network(job, name)]
    return sum(leaf.size for leaf in jax.tree.leaves(own))


def state_bytes(job: Job) -> int:
    """The size of what a step changes, and of what earlier stages of the method's own learned."""
    frozen = [net for name, net in job.frozen.nets.items() if not is_network(job, name)]
    return sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((job.sketch.state, frozen))
    )


def in_turn(steps: Steps, other: Steps) -> tuple[float, float]:
    """Milliseconds of a step, and how many times as long it takes as the other, timed in turn.

    Both are medians over the rounds.
    """
    rounds = [(steps.milliseconds(), other.milliseconds()) for _ in range(ROUNDS.value)]
    times = np.array(rounds)
    return float(np.median(times[:, 0])), float(np.median(times[:, 0] / times[:, 1]))


def job_row(name: str, job: Job, yardstick: Steps) -> Row:
    """What a stage of a method costs."""
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
    """A row for every stage of every method, without those that all methods share."""
    devices = jax.local_devices()
    *_, last = method_jobs(config, YARDSTICK, devices)
    yardstick, rows = Steps(last, devices), []
    for name in METHOD.value:
        own = [job for job in method_jobs(config, name, devices) if not job.task.stage.shared]
        rows += [job_row(name, job, yardstick) for job in own]
    return rows


if __name__ == "__main__":
    command.run(measure)
