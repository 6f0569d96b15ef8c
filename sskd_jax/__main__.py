"""python -m sskd_jax COMMAND: what a user does with this package, one command each."""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import sskd_jax
from sskd_jax.system import early


class Command(NamedTuple):
    """A command: the function that takes its arguments, as "module:name", and what it is for."""

    function: str
    text: str


COMMANDS = {
    "train": Command("sskd_jax.commands.train:run", "trains what a config asks for, or goes on"),
    "report": Command("sskd_jax.commands.report:run", "shows the results of a workdir again"),
    "evaluate": Command("sskd_jax.commands.evaluate:run", "measures a trained network"),
    "predict": Command("sskd_jax.commands.predict:run", "says what a network sees in images"),
    "export": Command("sskd_jax.exchange.export:main", "takes a network out of its workdir"),
    "prepare": Command("sskd_jax.data.prepare:main", "makes a dataset of files"),
    "list": Command("sskd_jax.commands.listing:run", "lists methods, networks, datasets or keys"),
}


def usage() -> str:
    """The help: every command with what it is for."""
    lines = [f"  {name:<10}{command.text}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m sskd_jax COMMAND ...",
            *lines,
            "python -m sskd_jax COMMAND --help tells more; --version prints the version",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
      The exit code: 0, or with a line on stderr 2 after a mistake, and 75 after a signal.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(sskd_jax.__version__)
        return 0
    from sskd_jax.system.console import complain
    from sskd_jax.types import UserError, choose

    try:
        module, _, name = choose(COMMANDS, arguments[0], "command").function.partition(":")
        function = getattr(importlib.import_module(module), name)
        return function(arguments[1:]) or 0
    except (UserError, OSError) as error:
        complain(f"error: {error}")
        return 2


def console_script() -> NoReturn:
    """The command `sskd`, which finds modules in the folder where it is typed, as `python -m`."""
    early.catch_signals(early.GOES_ON if "train" in sys.argv[1:2] else early.ANEW)
    sys.path.insert(0, "")
    sys.exit(main())


if __name__ == "__main__":
    early.catch_signals(early.GOES_ON if "train" in sys.argv[1:2] else early.ANEW)
    sys.exit(main())
