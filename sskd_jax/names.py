"""The names and keys that a config may have, as text."""

import inspect
import textwrap
from collections.abc import Mapping

from sskd_jax import settings
from sskd_jax.data.sources import LOADERS
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS
from sskd_jax.rules import Rule


def methods() -> list[str]:
    """Every method with its numbers."""
    numbers = {name: ", ".join(inspect.signature(METHODS[name]).parameters) for name in METHODS}
    lines = [f"{name:<18}{text}" for name, text in numbers.items()]
    return [
        *lines,
        "or one of your own, my_code:method; and variants, such as at+kd and kd+ls",
        "configs/long_tail.py and configs/continual.py have other names, such as crt and derpp",
    ]


def keys() -> list[str]:
    """Every key of a config, and what it may be."""
    stage = settings.STAGE | settings.OF_SOME_STAGES
    rules = settings.RUN | prefixed("data.", settings.DATA | settings.STREAMING)
    rules |= prefixed("STAGE.", stage) | prefixed("STAGE.images.", settings.IMAGES)
    return [f"{key:<24}{rule.text}" for key, rule in rules.items()]


def prefixed(section: str, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    return {section + key: rule for key, rule in rules.items()}


LISTS = {
    "methods": methods,
    "networks": lambda: list(MODELS),
    "datasets": lambda: [
        *LOADERS,
        "or, after configs/imagenet.py:dataset=, any that was prepared",
    ],
    "keys": keys,
}


def overview() -> str:
    """All names and keys, for --help."""
    named = {"methods": METHODS, "networks": MODELS, "datasets": LOADERS}
    lines = []
    for kind, registry in named.items():
        text = textwrap.fill(", ".join(registry), 78, break_on_hyphens=False)
        lines += [f"{kind}:", textwrap.indent(text, "  ")]
    lines += ["keys, typed as --config.KEY=VALUE; STAGE is teacher, student, or head and the like:"]
    lines += [f"  {line}" for line in keys()]
    return "\n".join(lines)
