"""python -m sskd_jax.main --config=configs/cifar.py --workdir=DIR [--config.KEY=VALUE ...]"""
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from sskd_jax.types import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "What to train, such as configs/cifar.py:method=kd.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints and results, from which a run that stopped goes on. Default: runs/CONFIG.")
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sskd_jax"


def fail(message: str) -> NoReturn:
    """One line for a user's mistake, and exit code 2."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def parse(argv: Sequence[str]) -> list[str]:
    """absl's flags; whatever is wrong with them or with the config file is one line instead of a traceback."""
    try:
        rest = flags.FLAGS(list(argv))
        if CONFIG.value is None or "seed" not in CONFIG.value:  # one that could not be loaded says so when it is used
            raise UserError("give --config=configs/quickstart.py (minutes on a CPU) or --config=configs/cifar.py")
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
    while error.args and isinstance(error.args[0], BaseException):  # ml_collections puts one error into another
        error = error.args[0]
    kind = "unknown config key " if isinstance(error, KeyError) else ""
    return kind + str(error.args[0] if error.args else error)


def default_workdir() -> str:
    """runs/cifar,method=kd for --config=configs/cifar.py:method=kd."""
    file, _, arguments = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return str(pathlib.Path("runs") / ",".join(filter(None, [pathlib.Path(file).stem, arguments])))


def keep_programs() -> None:
    """Compiled programs are kept for the next start; JAX_ENABLE_COMPILATION_CACHE=false turns it off."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def main(argv: Sequence[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    keep_programs()
    from sskd_jax import train

    try:
        train.run(CONFIG.value, WORKDIR.value or default_workdir())
    except UserError as error:
        fail(str(error))


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
