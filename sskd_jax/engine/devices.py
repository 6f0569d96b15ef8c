"""Programs on devices: the one `jax.pmap`, what it takes, and how XLA compiles it."""

import contextlib
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

# On the CPU, XLA gives convolutions of more than 16 channels to a library that uses one core, and products to one that
# wants them transposed first. To name reductions alone as the library's share leaves both to XLA's own routines. Its
# last level of optimisation takes half as long again to compile, for a step that is no faster. What runs once is not
# optimised at all; XLA for GPUs takes no level below 2.
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


def keep_programs() -> None:
    """Compiled programs are kept for the next start; JAX_ENABLE_COMPILATION_CACHE=false turns it off."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@cache
def understood(option: str, value: Any) -> bool:
    """Whether this version of XLA knows an option."""
    try:
        jax.jit(lambda: 0, compiler_options={option: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compiler_options(wanted: Mapping[str, dict[str, Any]], platform: str) -> dict[str, Any]:
    """Those that are `wanted` on a platform, as far as this version of XLA knows them."""
    return {
        option: value
        for option, value in wanted.get(platform, {}).items()
        if understood(option, value)
    }


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Devices that run out of memory are the user's to help; other errors of theirs are not.

    Raises:
      UserError: they did.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"out of memory ({str(error).splitlines()[0][:150]}): use smaller batch_sizes or more devices; "
            "the checkpoints are kept"
        ) from error


class Mapped:
    """A per-device program on all devices of all processes; compiled at its first call, and only then.

    Its first three arguments are stacked over the devices, [devices, ...]; the `shared` scalars behind them are not.
    Of the third, which comes from the host, every process gives the rows of its own devices.
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
        self.options = compiler_options(RUN_OFTEN, devices[0].platform)
        self.sharding, self.executable = stacked(devices), None
        self.rows = {position: slice(row, row + 1) for row, position in enumerate(mine(devices))}

    def placed(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The third argument goes to the devices; scalars get a fixed type."""
        return (
            *args[:2],
            jax.tree.map(self.place, args[2]),
            *(np.int32(scalar) for scalar in args[3:]),
        )

    def place(self, array: np.ndarray) -> jax.Array:
        shape = (self.sharding.num_devices, *array.shape[1:])
        return jax.make_array_from_callback(
            shape, self.sharding, lambda index: array[self.rows[index[0].start or 0]]
        )

    def compile(self, *args: Any) -> jax.stages.Compiled:
        self.executable = self.function.lower(*self.placed(args)).compile(self.options)
        return self.executable

    def __call__(self, *args: Any) -> Any:
        return (self.executable or self.compile(*args))(*self.placed(args))


def mine(devices: Sequence[jax.Device]) -> list[int]:
    """Which of the devices are this process's."""
    return [i for i, device in enumerate(devices) if device.process_index == jax.process_index()]


def stacked(devices: Sequence[jax.Device]) -> NamedSharding:
    """How arrays [devices, ...] lie on the devices."""
    return NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))


def replicated(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Every leaf [...] as [devices, ...], which takes no device of another process."""

    def stack(leaf: Any) -> jax.Array:
        copy = np.asarray(leaf)[None]
        return jax.make_array_from_callback(
            (len(devices), *leaf.shape), stacked(devices), lambda _: copy
        )

    return jax.tree.map(stack, tree)


def first(tree: Any) -> Any:
    """Copies on the host of what the first device of this process holds: leaves [devices, ...] as [...]."""
    return jax.tree.map(lambda leaf: np.array(leaf.addressable_data(0))[0], tree)


def chief() -> bool:
    """Whether this is the one process that reads and writes the workdir and talks to the user."""
    return jax.process_index() == 0


def agree(*numbers: int) -> list[int]:
    """The largest that any process says, number by number."""
    return (
        numbers
        if jax.process_count() == 1
        else process_allgather(np.int32(numbers)).max(0).tolist()
    )


def told_by_chief(tree: Any) -> Any:
    """The arrays that the chief has; the others need only give some of the same shapes."""
    return tree if jax.process_count() == 1 else broadcast_one_to_all(tree)


def run_once(function: Callable, *args: Any) -> Any:
    """function(*args), compiled quickly: for what runs once, compiling is most of the cost."""
    return jax.jit(function, compiler_options=compiler_options(RUN_ONCE, jax.default_backend()))(
        *args
    )
