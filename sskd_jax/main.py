"""python -m sskd_jax.main --config=configs/cifar.py --workdir=DIR [--config.KEY=VALUE ...]"""

import contextlib
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from sskd_jax.system import distributed
from sskd_jax.types import Stopped, UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to train, such as configs/cifar.py:method=kd."
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for checkpoints and results, from which a run that stopped goes on. Default: runs/CONFIG.",
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, f"This is one of several processes: {distributed.HOW}."
)


def fail(message: str) -> NoReturn:
    """One line for a user's mistake, and exit code 2."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def parse(argv: Sequence[str]) -> list[str]:
    """absl's flags; whatever is wrong with them or with the config file is one line instead of a traceback."""
    try:
        rest = flags.FLAGS(list(argv))
        if (
            CONFIG.value is None or "seed" not in CONFIG.value
        ):  # one that could not be loaded says so when it is used
            raise UserError(
                "give --config=configs/quickstart.py (minutes on a CPU) or --config=configs/cifar.py"
            )
        if len(rest) > 1:
            raise UserError(f"{rest[1]!r} is not a flag: write --config.KEY=VALUE")
        return rest
    except Exception as error:  # a config file may raise anything
        fail(reason(error))


def reason(error: BaseException) -> str:
    """The user's mistake behind an error, which config_flags wraps in errors of its own."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    for link in reversed(chain):
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, OSError):  # of a config file; the path is in the last line
            return str(link).splitlines()[-1]
        for frame in traceback.extract_tb(link.__traceback__):
            if frame.name == "get_config":
                return f"{frame.filename}, line {frame.lineno}: {type(link).__name__}: {link}"
    while error.args and isinstance(
        error.args[0], BaseException
    ):  # ml_collections puts one error into another
        error = error.args[0]
    return f"unknown config key {error.args[0]}" if isinstance(error, KeyError) else str(error)


def default_workdir() -> str:
    """runs/cifar,method=kd for --config=configs/cifar.py:method=kd."""
    file, _, arguments = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return str(pathlib.Path("runs") / ",".join(filter(None, [pathlib.Path(file).stem, arguments])))


def main(argv: Sequence[str], work: Callable[..., object] | None = None) -> None:
    logging.set_verbosity(logging.FATAL)  # libraries log errors that they also raise
    try:
        with distributed.membership() if DISTRIBUTED.value else contextlib.nullcontext():
            from sskd_jax import train

            (work or train.run)(CONFIG.value, WORKDIR.value or default_workdir())
    except (UserError, OSError) as error:
        fail(str(error))
    except Stopped as stop:
        print("stopped:", stop, file=sys.stderr)
        sys.exit(distributed.GO_ON)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
