"""Prints the results of a workdir again and draws its curves, without training.

python -m sskd_jax report runs/sskd
"""

import argparse
from collections.abc import Sequence

from sskd_jax.system.paths import locate
from sskd_jax.workdir.report import show


def run(argv: Sequence[str] | None = None) -> None:
    """Shows the results of the workdir that a command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m sskd_jax report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", help="of a run that is done")
    show(locate(parser.parse_args(argv).workdir))
