"""The config files that are installed next to the package."""

import importlib.util
import os
import runpy
from collections.abc import Sequence
from typing import Any

from sskd_jax.types import UserError


def with_equals_sign(argv: Sequence[str]) -> list[str]:
    """A command line with --config=FILE in place of --config FILE."""
    parts: list[str] = []
    for part in argv:
        if parts and parts[-1] == "--config":
            parts[-1] += f"={part}"
        else:
            parts.append(part)
    return parts


def with_installed_config(argument: str) -> str:
    """The argument; "configs/cifar.py" becomes the installed file if this folder has none.

    Only paths that begin with "configs/", after "--config=" or alone, are changed.
    """
    flag, equals, value = argument.rpartition("--config=")
    path, colon, rest = value.partition(":")
    if not path.startswith("configs/") or os.path.exists(path):
        return argument
    package = importlib.util.find_spec("configs")
    places = [] if package is None else package.submodule_search_locations
    for folder in places:
        if os.path.exists(found := os.path.join(os.path.dirname(folder), path)):
            return flag + equals + found + colon + rest
    return argument


def read_config(argument: str) -> Any:
    """The config of a file, PATH or PATH:ARGUMENTS; raises whatever the file raises."""
    path, _, arguments = with_installed_config(argument).partition(":")
    get_config = runpy.run_path(path).get("get_config")
    if get_config is None:
        raise UserError(f"{path} has no function get_config: configs/quickstart.py shows one")
    return get_config(arguments) if arguments else get_config()
