"""python -m sskd_jax.main --config=configs/cifar.py --workdir=DIR [--config.KEY=VALUE ...]"""
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from sskd_jax.types import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "What to train, such as configs/cifar.py:method=kd.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints and results; a run that stopped goes on from it.")


def fail(error: Exception) -> NoReturn:
    """One line for a user's mistake."""
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    sys.exit(2)


def parse(argv: Sequence[str]) -> list[str]:
    """absl's parser; what is wrong with the flags or the config file is one line, not a traceback."""
    return app.parse_flags_with_usage(argv)


def main(argv: Sequence[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    from sskd_jax import train

    try:
        train.run(CONFIG.value, WORKDIR.value)
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
