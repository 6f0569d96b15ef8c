"""SSKD in JAX/Flax: knowledge distillation meets self-supervision."""

__version__ = "0.1.0"
