r"""Whole epochs of the last stage against a program in PyTorch, in turn.

    python -m experiments.bench.epoch --config=configs/cifar.py:teacher=resnet20,student=resnet8
    python -m experiments.bench.epoch --config=configs/cifar.py:method=kd --channels_last
    python -m experiments.bench.epoch \
        --config=configs/continual.py:method=derpp,dataset=cifar100,student=resnet8

An epoch is its steps, an evaluation and a checkpoint. Images are random, in CIFAR's shape and in
memory, and networks untrained. The methods are sskd, kd and derpp; `peer_torch.py` says which
networks.
Seconds on the clock wander with what else the machine does. Beside other work, pin the command to
one core (taskset -c 0) and compare processor time: PyTorch's threads wait for each other busily.
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
from experiments.bench.workload import CLASSES, IMAGES, STEPS, Row, make_jobs, synthetic_run
from sskd_jax import settings
from sskd_jax.engine.loop import Job
from sskd_jax.types import UserError
from sskd_jax.workdir.logbook import NoLogbook

CHANNELS_LAST = flags.DEFINE_bool(
    "channels_last", False, "Have the peer lay images out with channels last, as we do."
)
# What the peer knows: methods by the terms of their last stage, and networks.
KNOWN = {
    "sskd": {"ce", "kd", "tf", "ss"},
    "kd": {"ce", "kd"},
    "der": {"ce", "distil", "replay"},  # DER++
}
NETWORKS = re.compile(r"resnet(8|14|20|32|44|56|110|8x4|32x4)|wrn_[0-9]+_[0-9]+|ShuffleV1")


class InTurn(NoLogbook):
    """A logbook that writes nothing, and has the peer run an epoch after each of ours.

    Attributes:
      ours: {"seconds", "processor"} of every epoch but the first, in which programs are compiled.
      theirs: of the peer's epochs, likewise.
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
    """The peer, about to train as many images in as many steps.

    Raises:
      UserError: it knows no such method or network, or there is no PyTorch.
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
    """How many images it takes so that every task of a stream has those of STEPS steps."""
    *_, setting = settings.settings(config).values()
    tasks = CLASSES.value // setting.method.get("task_classes", CLASSES.value)
    # Labels are random, so that tasks have more and fewer.
    return math.ceil(1.25 * tasks * STEPS.value * config.student.batch_size) if tasks > 1 else 0


def measure(config: ConfigDict) -> list[Row]:
    """A row each for seconds and for processor time."""
    devices = jax.local_devices()
    *_, job = make_jobs(synthetic_run(config, devices, enough_images(config)))
    with start_peer(config, job) as peer:
        book = InTurn(peer)
        train_epochs(job, devices, book)
    images = job.task.steps_per_epoch * job.batch_size
    return [compare(kind, book, images) for kind in ("seconds", "processor")]


def compare(kind: str, book: InTurn, images: int) -> Row:
    """Medians of images per second, and how many times as fast we were in every round."""
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
