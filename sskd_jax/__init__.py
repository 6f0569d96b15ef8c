"""SSKD in JAX/Flax: knowledge distillation meets self-supervision (Xu et al., ECCV 2020).

MODELS[name](num_classes=100) is a linen module: .apply(variables, image) gives `Outputs`.
METHODS[name](**numbers) is a method: its stages by name, in order.
from_state_dict(name, state_dict) translates PyTorch's weights to {"params", "batch_stats"}.
load(workdir_or_file) is a trained network: .predict(images), .features(images), .classes.
run(config, workdir) trains what a config describes, or resumes, and returns the rows of its table.
UserError is a mistake that the user can correct.

Each of these names is imported when it is first used, so that `import sskd_jax` alone loads
neither JAX nor numpy.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["MODELS", "METHODS", "UserError", "from_state_dict", "load", "run"]

_MODULES = {
    "MODELS": "sskd_jax.models",
    "METHODS": "sskd_jax.methods",
    "UserError": "sskd_jax.types",
    "from_state_dict": "sskd_jax.exchange.torch_bridge",
    "load": "sskd_jax.exchange.classifier",
    "run": "sskd_jax.train",
}


def __getattr__(name: str) -> Any:
    """Imports a public name; Python calls this for names that the module doesn't have yet."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # from now on it is found without this function
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _MODULES.keys())
