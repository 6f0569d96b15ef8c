"""python -m sskd_jax COMMAND: the commands of this package."""

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import sskd_jax
from sskd_jax.system import early

COMMANDS = {  # the modules of `commands`, each with a function `run` that takes its arguments
    "train": "trains what a config asks for, or goes on",
    "report": "shows the results of a workdir again",
    "evaluate": "measures a trained network",
    "predict": "says what a network sees in images",
    "export": "takes a network out of its workdir",
    "prepare": "makes a dataset of files",
    "list": "lists methods, networks, datasets or keys",
}


def usage() -> str:
    """The help: every command and its purpose."""
    lines = [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
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
    from sskd_jax.system.console import complain, complain_of, mistakes
    from sskd_jax.types import Stopped, choose

    try:
        choose(COMMANDS, arguments[0], "command")
        importlib.import_module(f"sskd_jax.commands.{arguments[0]}").run(arguments[1:])
    except mistakes() as error:
        complain_of(str(error))
        return 2
    except Stopped as stop:
        complain(f"stopped: {stop}")
        return early.GO_ON
    return 0


def console_script() -> NoReturn:
    """The command `sskd`; like `python -m`, it finds modules in the current folder."""
    early.catch_signals(early.GOES_ON if "train" in sys.argv[1:2] else early.ANEW)
    sys.path.insert(0, "")
    sys.exit(main())


if __name__ == "__main__":
    console_script()
