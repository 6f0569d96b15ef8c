"""Programs on devices: the one `jax.pmap`, what it takes, and how XLA compiles it."""
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"

# On the CPU, XLA gives convolutions of more than 16 channels to a library that uses one core, and products to one that
# wants them transposed first. To name reductions alone as the library's share leaves both to XLA's own routines. Its
# last level of optimisation takes half as long again to compile, for a step that is no faster.
RUN_OFTEN = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
                     "xla_backend_optimization_level": 2}}
RUN_ONCE = {"xla_backend_optimization_level": 0, "xla_cpu_opt_preset": "CPU_OPT_PRESET_FAST_COMPILE"}


@cache
def understood(option: str, value: Any) -> bool:
    """Whether this version of XLA knows an option."""
    try:
        jax.jit(lambda: 0, compiler_options={option: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compiler_options(wanted: dict[str, Any]) -> dict[str, Any]:
    return {option: value for option, value in wanted.items() if understood(option, value)}


def mapped(program: Callable, devices: Sequence[jax.Device], shared: int = 0, donate: bool = False) -> Callable:
    """`program` on every device; its first three arguments are stacked over the devices, the `shared` last are not."""
    function = jax.pmap(program, AXIS, in_axes=(0, 0, 0) + (None,) * shared, devices=devices)
    return jax.jit(lambda *args: function(*args), donate_argnums=(0,) if donate else (),
                   compiler_options=compiler_options(RUN_OFTEN.get(devices[0].platform, {})))


def replicated(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Every leaf [...] as [devices, ...], in the very form in which mapped programs return theirs.

    In another form they would be compiled a second time for their own results.
    """
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))

    def stack(leaf: Any) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(stack(jax.random.key_data(leaf)))
        copy = np.asarray(leaf)[None]
        return jax.make_array_from_callback((len(devices), *leaf.shape), sharding, lambda _: copy)

    return jax.tree.map(stack, tree)


def run_once(function: Callable, *args: Any) -> Any:
    """function(*args), compiled without optimisation: for what runs once, compiling is most of the cost."""
    return jax.jit(function, compiler_options=compiler_options(RUN_ONCE))(*args)
