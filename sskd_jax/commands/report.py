"""Prints the results of a workdir again and draws its curves, without training.

python -m sskd_jax report runs/sskd
"""

from collections.abc import Sequence

from sskd_jax.commands import make_parser
from sskd_jax.system.paths import locate
from sskd_jax.workdir.report import show


def run(argv: Sequence[str]) -> None:
    """Shows the results of the workdir that a command line names."""
    parser = make_parser("report", __doc__)
    parser.add_argument("workdir", help="of a run that is done")
    show(locate(parser.parse_args(argv).workdir))
