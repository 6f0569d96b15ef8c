"""Programs on the devices: the only `jax.pmap`, its arguments, and the options of the compiler."""

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sskd_jax.axis import AXIS
from sskd_jax.system.paths import CACHE
from sskd_jax.types import UserError

# By default, XLA on the CPU gives convolutions of more than 16 channels to a library that uses one
# core, and matrix products to one that needs them transposed first. With the option below, the
# library gets reductions alone, and XLA's own routines do the rest. XLA's highest level of
# optimisation takes 1.5 times as long to compile, for a step that is no faster. If JAX is asked for
# few optimisations (JAX_DISABLE_MOST_OPTIMIZATIONS), RUN_OFTEN is not used. A program that runs
# once is not optimised at all on the CPU; XLA for GPUs accepts no level below 2.
RUN_OFTEN = {
    "cpu": {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
        "xla_backend_optimization_level": 2,
    }
}
RUN_ONCE = {
    "cpu": {
        "xla_backend_optimization_level": 0,
        "xla_cpu_opt_preset": "CPU_OPT_PRESET_FAST_COMPILE",
    }
}


def all_devices() -> list[jax.Device]:
    """The devices of all processes; a `UserError` if JAX can't use those that are asked for."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without a word
        reason = str(error).partition("\n")[0] or f"JAX_PLATFORMS={jax.config.jax_platforms}"
        raise UserError(
            f"JAX finds no devices ({reason}): free them, install JAX's plugin for them, or set "
            "JAX_PLATFORMS=cpu"
        ) from error


def leave_accelerators() -> None:
    """Keeps this process on the CPU: accelerators may be busy with a run, or wait for other hosts.

    A command calls it first. Processes that this one starts are not affected.
    """
    jax.config.update("jax_platforms", "cpu")


def keep_programs() -> None:
    """Makes JAX cache compiled programs on the disk, for later runs.

    JAX_ENABLE_COMPILATION_CACHE=false turns it off. So do several processes on GPUs, unless a
    folder is named that all of them share: only the first process writes the programs, and XLA lets
    all that have to compile one choose its kernels together, so they would wait for the first.
    """
    if all_devices()[0].platform == "gpu" and jax.process_count() > 1:
        return
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def forget_programs() -> None:
    """Frees the programs of a finished stage, which take about 40 MB of memory each."""
    jax.clear_caches()
    gc.collect()


@cache
def understood(option: str, value: Any) -> bool:
    """Whether this version of XLA knows an option."""
    try:
        jax.jit(lambda: 0, compiler_options={option: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compiler_options(wanted: Mapping[str, dict[str, Any]], platform: str) -> dict[str, Any]:
    """The options that are `wanted` on a platform and that this version of XLA knows."""
    return {
        option: value
        for option, value in wanted.get(platform, {}).items()
        if understood(option, value)
    }


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Turns the error of a device that runs out of memory into one line for the user.

    Raises:
      UserError: a device ran out of memory; other errors are raised unchanged.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0][:150]
        raise UserError(
            f"out of memory ({reason}): use smaller batch_sizes or more devices; the checkpoints "
            "are kept"
        ) from error


class Mapped:
    """A per-device program on all devices of all processes, compiled at its first call.

    Its first three arguments are stacked over the devices, [devices, ...]; the `shared` scalars
    after them are the same on all devices. The third argument comes from the host, and every
    process passes only the parts of its own devices.
    """

    def __init__(
        self,
        program: Callable,
        devices: Sequence[jax.Device],
        shared: int = 0,
        donate: bool = False,
    ):
        self.function = jax.pmap(
            program,
            AXIS,
            in_axes=(0, 0, 0) + (None,) * shared,
            devices=devices,
            donate_argnums=(0,) if donate else (),
        )
        few = jax.config.read("jax_disable_most_optimizations")
        self.options = {} if few else compiler_options(RUN_OFTEN, devices[0].platform)
        self.sharding, self.executable = stacked(devices), None
        # The slice of this process's arrays that belongs to a device, by the device's position.
        local = enumerate(local_positions(devices))
        self.parts = {position: slice(part, part + 1) for part, position in local}

    def placed(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments with the third on the devices, and with scalars of one fixed type."""
        state, constants, streamed, *scalars = args
        streamed = jax.tree.map(self.place, streamed)
        return state, constants, streamed, *(np.int32(scalar) for scalar in scalars)

    def place(self, array: np.ndarray) -> jax.Array:
        shape = (self.sharding.num_devices, *array.shape[1:])

        def part(index: tuple[slice, ...]) -> np.ndarray:
            return array[self.parts[index[0].start or 0]]

        return jax.make_array_from_callback(shape, self.sharding, part)

    def compile(self, *args: Any) -> jax.stages.Compiled:
        self.executable = self.function.lower(*self.placed(args)).compile(self.options)
        return self.executable

    def __call__(self, *args: Any) -> Any:
        return (self.executable or self.compile(*args))(*self.placed(args))


def local_positions(devices: Sequence[jax.Device]) -> list[int]:
    """The positions in `devices` of the devices that this process owns."""
    return [i for i, device in enumerate(devices) if device.process_index == jax.process_index()]


def stacked(devices: Sequence[jax.Device]) -> NamedSharding:
    """The sharding of arrays [devices, ...], with one part on each device."""
    return NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))


def replicated(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """A copy of every leaf [...] on each device: [devices, ...]; processes exchange nothing."""

    def stack(leaf: Any) -> jax.Array:
        copy, shape = np.asarray(leaf)[None], (len(devices), *leaf.shape)
        return jax.make_array_from_callback(shape, stacked(devices), lambda index: copy)

    return jax.tree.map(stack, tree)


def unreplicate(tree: Any) -> Any:
    """Leaves [devices, ...] as [...]: host copies of what this process's first device holds."""
    return jax.tree.map(lambda leaf: np.array(leaf.addressable_data(0))[0], tree)


def chief() -> bool:
    """Whether this is the one process that reads and writes the workdir and talks to the user."""
    return jax.process_index() == 0


def max_over_processes(*numbers: int) -> Sequence[int]:
    """The maximum over all processes of each of the numbers."""
    if jax.process_count() == 1:
        return numbers
    return process_allgather(np.int32(numbers)).max(0).tolist()


def broadcast_from_chief(tree: Any) -> Any:
    """The chief's arrays, in all processes; the others pass any arrays of the same shapes."""
    return tree if jax.process_count() == 1 else broadcast_one_to_all(tree)


def run_once(function: Callable, *args: Any) -> Any:
    """function(*args), compiled quickly: compilation is most of the cost of what runs once."""
    options = compiler_options(RUN_ONCE, jax.default_backend())
    return jax.jit(function, compiler_options=options)(*args)
