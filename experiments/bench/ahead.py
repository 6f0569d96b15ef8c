r"""Compiles a config's steps for an absent TPU slice or GPU, and shows what they would need.

    pip install "jax[tpu]"    # or "jax[cuda12]" for --topology=H100
    python -m experiments.bench.ahead --config=configs/imagenet.py:batch=1024 --size=224 \
        --topology=v5e:4x4

XLA's compilers run on any Linux machine, so a program that does not compile for a device, or is too
large for it, is found before the device is paid for. Nothing is run or timed. The memory includes
the resident training images, which are --steps batches.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import topologies
from ml_collections import ConfigDict

from experiments.bench import command
from experiments.bench.workload import make_jobs, synthetic_run
from sskd_jax.engine.devices import enough_memory, leave_accelerators
from sskd_jax.engine.loop import Job, epoch_order
from sskd_jax.engine.step import train_program
from sskd_jax.types import UserError
from sskd_jax.workdir.files import Row

# So that the compiler neither looks for TPUs nor minds other programs that use it.
ALONE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
}
TOPOLOGY = flags.DEFINE_string(
    "topology", "v5e:2x2", "A TPU slice by its generation and shape, or H100."
)

# What XLA asks a GPU for, with NVIDIA's figures, and the versions of the libraries to compile for.
GPUS = {
    "H100": """
    gpu_device_info {
      cuda_compute_capability { major: 9 }
      threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
      shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
      shared_memory_per_core: 233472 core_count: 132 fpus_per_core: 128
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
      device_memory_size: 84929347584
    }
    platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 }
    runtime_version { major: 12 minor: 9 }
    device_description_str: "NVIDIA H100 80GB HBM3" """
}
# Compiler options that turn off what needs timings on the device.
UNTIMED = {"gpu": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}}
NO_KERNEL = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}


def devices_of(topology: str) -> Sequence[jax.Device]:
    """The devices of a TPU slice, or a GPU, as targets of compilation.

    Raises:
      UserError: there is no such device, or its compiler is not installed.
    """
    os.environ.update(ALONE | os.environ)
    try:
        if topology in GPUS:
            return topologies.get_topology_desc(
                platform="cuda", topology="1x1x1", target_config=GPUS[topology]
            ).devices
        return topologies.get_topology_desc(topology, platform="tpu").devices
    except RuntimeError as error:
        raise UserError(
            f"--topology={topology}: {str(error).splitlines()[0]}. It takes a slice, such as "
            'v5e:2x2, v5e:4x4 or v4:2x2x1, and its compiler: pip install "jax[tpu]"; or '
            f'{", ".join(GPUS)}, and "jax[cuda12]"'
        ) from error


def compiled(job: Job, devices: Sequence[jax.Device]) -> jax.stages.Compiled:
    """The program that trains a stage, compiled for all of the devices together."""
    program = train_program(job.task, devices)

    def placed(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=program.sharding)

    def stacked(leaf: Any) -> jax.ShapeDtypeStruct:
        return placed((len(devices), *np.shape(leaf)), leaf.dtype)

    state, frozen = jax.tree.map(stacked, (job.sketch.state, job.frozen))
    order = epoch_order(job, 0, len(devices))
    step = jax.ShapeDtypeStruct((), np.int32)
    arguments = state, frozen, placed(order.shape, order.dtype), step, step
    with enough_memory():
        lowered = program.function.lower(*arguments)
        return lowered.compile(UNTIMED.get(devices[0].platform))


def kernels(program: str) -> int:
    """The number of instructions in a program's largest loop that start a kernel on the device.

    They are counted in XLA's text of the program.
    """
    texts = filter(str.strip, program.split("\n\n"))
    blocks = {text.split()[0].lstrip("%"): text for text in texts}
    bodies = [blocks[name].splitlines()[1:-1] for name in re.findall(r"body=%?([\w.-]+)", program)]
    operations = [re.search(r" = .*? ([\w-]+)\(", line)[1] for line in max(bodies, key=len)]
    return sum(is_kernel(operation) for operation in operations)


def is_kernel(operation: str) -> bool:
    return operation not in NO_KERNEL and not operation.endswith("-done")


def stage_row(job: Job, devices: Sequence[jax.Device]) -> Row:
    """The row of a stage: one device's memory, and its kernels, operations and traffic in a step.

    Operations and traffic are XLA's counts, which it has for TPUs, but not for GPUs.
    """
    program = compiled(job, devices)
    memory, costs = program.memory_analysis(), program.cost_analysis() or {}
    counted = {"gflop": "flops", "moved_gb": "bytes accessed"}
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return {
        "step of": job.kind,
        "devices": len(devices),
        "images": job.batch_size // len(devices),
        "memory_mib": round(size / 2**20, 1),
        "kernels": kernels(program.as_text()),
        **{unit: round(costs[name] / 1e9, 2) for unit, name in counted.items() if name in costs},
    }


def measure(config: ConfigDict) -> list[Row]:
    """A row for every stage, compiled in the dtype that the devices would compute in."""
    devices = devices_of(TOPOLOGY.value)
    return [stage_row(job, devices) for job in make_jobs(synthetic_run(config, devices))]


if __name__ == "__main__":
    leave_accelerators()  # which may be absent, or busy
    # Without its device, a compiled program could be stored, but not be read again.
    jax.config.update("jax_enable_compilation_cache", False)
    command.run(measure)
