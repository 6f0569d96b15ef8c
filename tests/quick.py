"""Programs that compile in a third of the time.

They are for tests that run them once and ask neither for speed nor for exact bits.
"""

from sskd_jax.engine.devices import compiler_options

# XLA's older routines for what it fuses, not optimised. They compute the same, up to the order of
# a sum.
QUICK = compiler_options(
    {"cpu": {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}}, "cpu"
)
