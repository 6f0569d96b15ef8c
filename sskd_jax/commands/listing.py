"""Lists what a config may name.

python -m sskd_jax list methods|networks|datasets|keys
"""

import argparse
import inspect
from collections.abc import Mapping, Sequence

from sskd_jax import settings
from sskd_jax.data.sources import LOADERS
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS
from sskd_jax.rules import Rule
from sskd_jax.system.console import console


def methods() -> list[str]:
    """Every method with its numbers."""
    numbers = {name: ", ".join(inspect.signature(METHODS[name]).parameters) for name in METHODS}
    return [f"{name:<18}{text}" for name, text in numbers.items()]


def keys() -> list[str]:
    """Every key of a config, and what it may be."""
    stage = settings.STAGE | settings.OF_SOME_STAGES
    rules = settings.RUN | prefixed("data.", settings.DATA) | prefixed("STAGE.", stage)
    rules |= prefixed("data.", settings.STREAMING)
    return [f"{key:<24}{rule.text}" for key, rule in rules.items()]


def prefixed(section: str, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    return {section + key: rule for key, rule in rules.items()}


LISTS = {
    "methods": methods,
    "networks": lambda: list(MODELS),
    "datasets": lambda: [*LOADERS, "or any that was prepared: python -m sskd_jax prepare --help"],
    "keys": keys,
}


def run(argv: Sequence[str] | None = None) -> None:
    """Prints the list that a command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m sskd_jax list",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=LISTS)
    for line in LISTS[parser.parse_args(argv).what]():
        console.print(line)
