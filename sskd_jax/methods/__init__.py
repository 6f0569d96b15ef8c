"""The methods by name: METHODS[name](**its numbers) is a Method."""
from collections.abc import Callable

from sskd_jax.methods import kd, scratch, sskd
from sskd_jax.types import Method

METHODS: dict[str, Callable[..., Method]] = {"scratch": scratch.scratch, "kd": kd.kd, "sskd": sskd.sskd}
