r"""Whether the steps of a config compile for a TPU slice that is not here, and what they need of each of its devices.

    pip install "jax[tpu]"
    JAX_PLATFORMS=cpu python -m experiments.ahead --config=configs/imagenet.py:batch=1024 --size=224 --topology=v5e:4x4

XLA's TPU compiler runs on any Linux machine: a program that is wrong for a TPU, or too large for one, shows before the
slice is paid for. Nothing is run or timed. The training images count with --steps batches of them.
"""
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import app, flags
from jax.experimental import topologies
from ml_collections import ConfigDict

from experiments import benchmark
from experiments.benchmark import Row
from sskd_jax import main as cli
from sskd_jax.devices import enough_memory
from sskd_jax.stage import Stage, epoch_order
from sskd_jax.step import initial_state, train_program
from sskd_jax.types import UserError

ALONE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-1"}
TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "A TPU slice by its generation and shape.")


def slice_devices(topology: str) -> Sequence[jax.Device]:
    """The devices of a TPU slice, to compile for.

    Raises:
      UserError: there is no such slice, or no compiler for it.
    """
    os.environ.update(ALONE | os.environ)  # else the compiler looks for TPUs of this machine
    try:
        return topologies.get_topology_desc(topology, platform="tpu").devices
    except RuntimeError as error:
        raise UserError(f"--topology={topology}: {str(error).splitlines()[0]}. It takes a slice, such as v5e:2x2, "
                        'v5e:4x4 or v4:2x2x1, and its compiler: pip install "jax[tpu]"') from error


def compiled(stage: Stage, devices: Sequence[jax.Device]) -> jax.stages.Compiled:
    """The program that trains a stage, as all of the devices would run it."""
    program = train_program(stage.task, devices)

    def stacked(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((len(devices), *np.shape(leaf)), leaf.dtype, sharding=program.sharding)

    state = initial_state(stage.task, jax.random.key(0), stage.frozen)
    order = epoch_order(stage, 0, len(devices))
    order = jax.ShapeDtypeStruct(order.shape, order.dtype, sharding=program.sharding)
    step = jax.ShapeDtypeStruct((), np.int32)
    with enough_memory():
        return program.function.lower(*jax.tree.map(stacked, (state, stage.frozen)), order, step, step).compile()


def stage_row(name: str, stage: Stage, devices: Sequence[jax.Device]) -> Row:
    """What one device holds, computes and moves in a step; XLA counts the latter two."""
    program = compiled(stage, devices)
    memory, costs = program.memory_analysis(), program.cost_analysis() or {}
    return {"step of": name, "devices": len(devices), "images": stage.batch_size // len(devices),
            "memory_mib": round((memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20, 1),
            "gflop": round(costs.get("flops", 0) / 1e9, 2), "moved_gb": round(costs.get("bytes accessed", 0) / 1e9, 2)}


def measure(config: ConfigDict) -> list[Row]:
    """A row for every stage, in the dtype that the devices would compute in."""
    devices, config = slice_devices(TOPOLOGY.value), config.copy_and_resolve_references()
    config.dtype = "bfloat16" if config.dtype == "auto" else config.dtype
    return [stage_row(name, stage, devices)
            for name, stage in benchmark.make_stages(benchmark.synthetic_run(config)).items()]


if __name__ == "__main__":
    app.run(partial(benchmark.main, measure=measure), flags_parser=cli.parse)
