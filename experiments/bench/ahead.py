r"""Whether the steps of a config compile for a TPU slice or a GPU that is not here, and what they need of each device.

    pip install "jax[tpu]"    # or "jax[cuda12]" for --topology=H100
    JAX_PLATFORMS=cpu python -m experiments.bench.ahead --config=configs/imagenet.py:batch=1024 --size=224 --topology=v5e:4x4

XLA's compilers run on any Linux machine: a program that is wrong for a device, or too large for one, shows before it is
paid for. Nothing is run or timed. The training images count with --steps batches of them.
"""

import os
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import app, flags
from jax.experimental import topologies
from ml_collections import ConfigDict

from experiments.bench import benchmark
from experiments.bench.benchmark import Row
from sskd_jax import main as cli
from sskd_jax.engine.devices import enough_memory
from sskd_jax.engine.loop import Stage, epoch_order
from sskd_jax.engine.step import initial_state, train_program
from sskd_jax.types import UserError

ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
}
TOPOLOGY = flags.DEFINE_string(
    "topology", "v5e:2x2", "A TPU slice by its generation and shape, or H100."
)

# What XLA asks a GPU for, as NVIDIA states it, and the libraries' versions to compile for.
GPUS = {
    "H100": """
    gpu_device_info {
      cuda_compute_capability { major: 9 }
      threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
      shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
      core_count: 132 fpus_per_core: 128 registers_per_core_limit: 65536 registers_per_block_limit: 65536
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84929347584
    }
    platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 9 }
    device_description_str: "NVIDIA H100 80GB HBM3" """
}
UNTIMED = {
    "gpu": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
}  # what only the device could time
NO_KERNEL = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}


def devices_of(topology: str) -> Sequence[jax.Device]:
    """The devices of a TPU slice, or a GPU, to compile for.

    Raises:
      UserError: there is no such device, or no compiler for it.
    """
    os.environ.update(ALONE | os.environ)  # else the compiler looks for TPUs of this machine
    try:
        if topology in GPUS:
            return topologies.get_topology_desc(
                platform="cuda", topology="1x1x1", target_config=GPUS[topology]
            ).devices
        return topologies.get_topology_desc(topology, platform="tpu").devices
    except RuntimeError as error:
        raise UserError(
            f"--topology={topology}: {str(error).splitlines()[0]}. It takes a slice, such as v5e:2x2, "
            f'v5e:4x4 or v4:2x2x1, and its compiler: pip install "jax[tpu]"; or {", ".join(GPUS)}, and '
            '"jax[cuda12]"'
        ) from error


def compiled(stage: Stage, devices: Sequence[jax.Device]) -> jax.stages.Compiled:
    """The program that trains a stage, as all of the devices would run it."""
    program = train_program(stage.task, devices)

    def stacked(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            (len(devices), *np.shape(leaf)), leaf.dtype, sharding=program.sharding
        )

    state = initial_state(stage.task, jax.random.key(0), stage.frozen)
    order = epoch_order(stage, 0, len(devices))
    order = jax.ShapeDtypeStruct(order.shape, order.dtype, sharding=program.sharding)
    step = jax.ShapeDtypeStruct((), np.int32)
    with enough_memory():
        return program.function.lower(
            *jax.tree.map(stacked, (state, stage.frozen)), order, step, step
        ).compile(UNTIMED.get(devices[0].platform))


def kernels(program: str) -> int:
    """How many instructions of a program's largest loop start something on the device, by XLA's text of it."""
    blocks = {
        block.split()[0].lstrip("%"): block for block in program.split("\n\n") if block.strip()
    }
    bodies = [blocks[name].splitlines()[1:-1] for name in re.findall(r"body=%?([\w.-]+)", program)]
    operations = [re.search(r" = .*? ([\w-]+)\(", line)[1] for line in max(bodies, key=len)]
    return sum(
        operation not in NO_KERNEL and not operation.endswith("-done") for operation in operations
    )


def stage_row(name: str, stage: Stage, devices: Sequence[jax.Device]) -> Row:
    """What one device holds, starts, computes and moves in a step; XLA counts the latter two, but not for GPUs."""
    program = compiled(stage, devices)
    memory, costs = program.memory_analysis(), program.cost_analysis() or {}
    counts = {
        unit: round(costs[count] / 1e9, 2)
        for unit, count in {"gflop": "flops", "moved_gb": "bytes accessed"}.items()
        if count in costs
    }
    return {
        "step of": name,
        "devices": len(devices),
        "images": stage.batch_size // len(devices),
        "memory_mib": round((memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20, 1),
        "kernels": kernels(program.as_text()),
        **counts,
    }


def measure(config: ConfigDict) -> list[Row]:
    """A row for every stage, in the dtype that the devices would compute in."""
    devices, config = devices_of(TOPOLOGY.value), config.copy_and_resolve_references()
    config.dtype = "bfloat16" if config.dtype == "auto" else config.dtype
    return [
        stage_row(name, stage, devices)
        for name, stage in benchmark.make_stages(benchmark.synthetic_run(config)).items()
    ]


if __name__ == "__main__":
    app.run(partial(benchmark.main, measure=measure), flags_parser=cli.parse)
