r"""What every method costs beside KD: parameters and state of its own, and the time of a step.

    python -m experiments.bench.costs --config=configs/cifar.py:teacher=wrn_40_2,student=wrn_16_2 --steps=2 --rounds=3

Images are random, 50,000 in all, and networks untrained. A step of every method is timed in turn with one of KD's.
--method may be given several times.
"""

from functools import partial

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from configs import common
from experiments.bench import benchmark
from experiments.bench.benchmark import Row, Steps
from sskd_jax import main as cli
from sskd_jax import train
from sskd_jax.methods import METHODS

METHOD = flags.DEFINE_multi_enum("method", list(METHODS), list(METHODS), "Whose costs to measure.")
TRAIN_IMAGES = flags.DEFINE_integer(
    "train_images", 50_000, "Images that a method remembers.", lower_bound=1
)


def synthetic_run(config: ConfigDict, name: str) -> train.Run:
    """A run of the method on so many images as it would remember."""
    config = config.copy_and_resolve_references()
    chosen = common.method(name, pair=(config.teacher.model, config.student.model))
    config.method, config.weights = chosen.method, chosen.weights
    return benchmark.synthetic_run(config, TRAIN_IMAGES.value)


def held(steps: Steps) -> tuple[int, int]:
    """(trained parameters of the method's own, bytes of all that is neither teacher nor images)."""
    state, pretrained = (jax.tree.leaves(tree) for tree in (steps.state, steps.frozen.pretrained))
    own = sum(leaf.size for leaf in jax.tree.leaves(steps.state.params["method"])) // len(
        steps.frozen.key
    )
    return own, sum(leaf.nbytes for leaf in state + pretrained) // len(steps.frozen.key)


def in_turn(steps: Steps, other: Steps) -> tuple[float, float]:
    """Median milliseconds of a step, and median of how many times as long it takes as the other, timed in turn."""
    times = np.array(
        [(steps.milliseconds(), other.milliseconds()) for _ in range(benchmark.ROUNDS.value)]
    )
    return float(np.median(times[:, 0])), float(np.median(times[:, 0] / times[:, 1]))


def rows_of(this: train.Run, name: str, kd: Steps) -> list[Row]:
    """Of a method's student, and of its own stages."""
    rows = []
    for stage_name, stage in benchmark.make_stages(this).items():
        if stage_name != "teacher":
            steps = Steps(this, stage)
            own, size = held(steps)
            milliseconds, ratio = in_turn(steps, kd)
            rows.append(
                {
                    "method": name,
                    "stage": stage_name,
                    "own parameters": own,
                    "MiB": round(size / 2**20, 1),
                    "ms": round(milliseconds),
                    "times KD's": round(ratio, 2),
                }
            )
    return rows


def measure(config: ConfigDict) -> list[Row]:
    this = synthetic_run(config, "kd")
    kd = Steps(this, benchmark.make_stages(this)["student"])
    return [row for name in METHOD.value for row in rows_of(synthetic_run(config, name), name, kd)]


if __name__ == "__main__":
    app.run(partial(benchmark.main, measure=measure), flags_parser=cli.parse)
