r"""What every method costs beside KD: parameters and state of its own, and the time of a step.

    python -m experiments.costs --config=configs/cifar.py:teacher=wrn_40_2,student=wrn_16_2 --steps=2 --rounds=3

Images are random, 50,000 in all, and networks untrained. A step of every method is timed in turn with one of KD's.
--method may be given several times.
"""
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags, logging

from configs import common
from experiments import benchmark
from experiments.benchmark import Row, Steps
from sskd_jax import main as cli
from sskd_jax import train
from sskd_jax.devices import keep_programs
from sskd_jax.methods import METHODS
from sskd_jax.types import UserError

METHOD = flags.DEFINE_multi_enum("method", list(METHODS), list(METHODS), "Whose costs to measure.")
TRAIN_IMAGES = flags.DEFINE_integer("train_images", 50_000, "Images that a method remembers.", lower_bound=1)


def synthetic_run(name: str) -> train.Run:
    """A run of the method on so many images as it would remember."""
    config = cli.CONFIG.value.copy_and_resolve_references()
    chosen = common.method(name, pair=(config.teacher.model, config.student.model))
    config.method, config.weights = chosen.method, chosen.weights
    return benchmark.synthetic_run(config, TRAIN_IMAGES.value)


def held(steps: Steps) -> tuple[int, int]:
    """(trained parameters of the method's own, bytes of all that is neither teacher nor images)."""
    state, pretrained = (jax.tree.leaves(tree) for tree in (steps.state, steps.frozen.pretrained))
    own = sum(leaf.size for leaf in jax.tree.leaves(steps.state.params["method"])) // len(steps.frozen.key)
    return own, sum(leaf.nbytes for leaf in state + pretrained) // len(steps.frozen.key)


def in_turn(steps: Steps, other: Steps) -> tuple[float, float]:
    """Median milliseconds of a step of both, timed in turn."""
    times = [(steps.milliseconds(), other.milliseconds()) for _ in range(benchmark.ROUNDS.value)]
    return tuple(float(np.median(column)) for column in zip(*times, strict=True))


def rows_of(name: str, kd: Steps) -> list[Row]:
    """Of a method's student, and of its own stages."""
    this, rows = synthetic_run(name), []
    for stage_name, stage in benchmark.make_stages(this).items():
        if stage_name != "teacher":
            steps = Steps(this, stage)
            own, size = held(steps)
            milliseconds, beside = in_turn(steps, kd)
            rows.append({"method": name, "stage": stage_name, "own parameters": own,
                         "MiB beside KD's": round((size - held(kd)[1]) / 2**20, 2), "ms": round(milliseconds, 1),
                         "times KD's": round(milliseconds / beside, 2)})
    return rows


def measure() -> list[Row]:
    this = synthetic_run("kd")
    kd = Steps(this, benchmark.make_stages(this)["student"])
    return [row for name in METHOD.value for row in rows_of(name, kd)]


def main(argv: Sequence[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    keep_programs()
    try:
        rows = measure()
    except UserError as error:
        cli.fail(str(error))
    benchmark.report(cli.CONFIG.value, rows)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse)
