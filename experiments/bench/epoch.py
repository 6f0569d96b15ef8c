r"""Times whole epochs of a method's last stage in turn with those of a program in PyTorch.

    python -m experiments.bench.epoch --config=configs/cifar.py:teacher=resnet20,student=resnet8
    python -m experiments.bench.epoch --config=configs/cifar.py:method=kd --channels_last
    python -m experiments.bench.epoch \
        --config=configs/continual.py:method=derpp,dataset=cifar100,student=resnet8

An epoch consists of its steps, an evaluation and a checkpoint. Images are random, in memory and of
CIFAR's shape; networks are untrained. The methods are sskd, kd and derpp; the networks are those of
`peer_torch.py`. Seconds on the clock vary with other work on the machine. If there is any, pin the
command to one core (taskset -c 0) and compare processor time: on several cores, PyTorch's threads
use processor time while they wait for each other.
"""

import importlib.util
import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from experiments.bench import command
from experiments.bench.timing import train_epochs
from experiments.bench.workload import CLASSES, IMAGES, STEPS, make_jobs, synthetic_run
from sskd_jax import settings
from sskd_jax.engine.loop import Job
from sskd_jax.types import UserError
from sskd_jax.workdir.files import Row
from sskd_jax.workdir.logbook import NoLogbook

CHANNELS_LAST = flags.DEFINE_bool(
    "channels_last", False, "Have the peer lay images out with channels last, as we do."
)
# What the peer implements: methods, with the terms of their last stage, and networks.
KNOWN = {
    "sskd": {"ce", "kd", "tf", "ss"},
    "kd": {"ce", "kd"},
    "der": {"ce", "distil", "replay"},  # DER++
}
NETWORKS = re.compile(r"resnet(8|14|20|32|44|56|110|8x4|32x4)|wrn_[0-9]+_[0-9]+|ShuffleV1")


class InTurn(NoLogbook):
    """A logbook that writes no files, but has the peer run an epoch after every one of the job.

    Attributes:
      ours: {"seconds", "processor"} of every epoch of this process; in the first one, programs are
        compiled.
      theirs: the same of the peer's epochs.
    """

    def __init__(self, peer: subprocess.Popen):
        self.peer, self.ours, self.theirs = peer, [], []
        self.start()

    def start(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def saved(self, stage: str, step: int) -> None:
        seconds, processor = time.perf_counter(), time.process_time()
        self.ours.append(
            {"seconds": seconds - self.began[0], "processor": processor - self.began[1]}
        )
        self.theirs.append(peer_epoch(self.peer))
        self.start()


def peer_epoch(peer: subprocess.Popen) -> dict[str, float]:
    try:
        peer.stdin.write("\n")
        peer.stdin.flush()
        return json.loads(peer.stdout.readline())
    except (OSError, ValueError) as error:
        raise UserError("the peer ended, as it says above") from error


def start_peer(config: ConfigDict, job: Job) -> subprocess.Popen:
    """Starts the peer with the method, the networks and the numbers of images and steps of a job.

    Raises:
      UserError: the peer does not implement the method or a network, or PyTorch is not installed.
    """
    if not importlib.util.find_spec("torch"):
        raise UserError("the peer needs PyTorch: pip install torch")
    *_, recipe = settings.check(config)
    *_, setting = settings.settings(config).values()
    if KNOWN.get(recipe.name) != set(job.task.stage.terms):
        raise UserError(
            f"the peer knows sskd, kd and derpp, not {recipe.name} with the terms "
            f"{', '.join(job.task.stage.terms)}"
        )
    models = {kind: config[kind].model for kind in ("teacher", "student") if kind in config}
    for model in models.values():
        if not NETWORKS.fullmatch(model):
            raise UserError(
                f"the peer knows resnetD, resnetDx4, wrn_D_W and ShuffleV1, not {model}"
            )
    arguments = models | {
        "method": recipe.name,
        "steps": job.task.steps_per_epoch,
        "batch_size": job.batch_size,
        "images": IMAGES.value,
        "buffer_size": setting.method.get("buffer_size", 0),
    }
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "experiments.bench.peer_torch"),
            *(f"--{name}={value}" for name, value in arguments.items()),
            *(["--channels_last"] if CHANNELS_LAST.value else []),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def enough_images(config: ConfigDict) -> int:
    """The number of training images for STEPS steps in each task of a stream; 0 if not a stream."""
    *_, setting = settings.settings(config).values()
    tasks = CLASSES.value // setting.method.get("task_classes", CLASSES.value)
    # A quarter more, as labels are random, so that some tasks have fewer images than others.
    return math.ceil(1.25 * tasks * STEPS.value * config.student.batch_size) if tasks > 1 else 0


def measure(config: ConfigDict) -> list[Row]:
    """A row for the seconds on the clock, and one for processor time."""
    devices = jax.local_devices()
    *_, job = make_jobs(synthetic_run(config, devices, enough_images(config)))
    with start_peer(config, job) as peer:
        book = InTurn(peer)
        train_epochs(job, devices, book)
    images = job.task.steps_per_epoch * job.batch_size
    return [compare(kind, book, images) for kind in ("seconds", "processor")]


def compare(kind: str, book: InTurn, images: int) -> Row:
    """Both sides' median images per second, and the rounds' median, least and most ratio."""
    ours, theirs = ([epoch[kind] for epoch in side[1:]] for side in (book.ours, book.theirs))
    ratios = sorted(other / our for our, other in zip(ours, theirs, strict=True))

    def speed(times: Sequence[float]) -> float:
        return round(images / statistics.median(times), 1)

    ratio: dict[str, Any] = {"ratio": statistics.median(ratios)}
    ratio |= {"least": ratios[0], "most": ratios[-1]}
    rounded = {name: round(value, 3) for name, value in ratio.items()}
    return {"by": kind, "ours": speed(ours), "peer's": speed(theirs), **rounded}


if __name__ == "__main__":
    command.run(measure)
