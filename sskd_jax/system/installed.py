"""The config files that are installed next to the package."""

import contextlib
import importlib
import os
import pathlib
import runpy
from collections.abc import Sequence
from typing import Any

from sskd_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[2]  # the folder that holds sskd_jax and configs


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
    if not path.startswith("configs/"):
        return argument
    add_installed_modules()
    if os.path.exists(path) or not (ROOT / path).exists():
        return argument
    return f"{flag}{equals}{ROOT / path}{colon}{rest}"


def add_installed_modules() -> None:
    """Lets `from configs import common` find the installed file in a folder with other configs.

    Those may be a package called `configs` themselves, which alone would be searched.
    """
    with contextlib.suppress(Exception):  # of the user's package; a config that needs it tells it
        places = importlib.import_module("configs").__path__
        if str(ROOT / "configs") not in places:
            places.append(str(ROOT / "configs"))


def read_config(argument: str) -> Any:
    """The config of a file, PATH or PATH:ARGUMENTS; raises whatever the file raises."""
    path, _, arguments = with_installed_config(argument).partition(":")
    get_config = runpy.run_path(path).get("get_config")
    if get_config is None:
        raise UserError(f"{path} has no function get_config: configs/quickstart.py shows one")
    return get_config(arguments) if arguments else get_config()
