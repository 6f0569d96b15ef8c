"""Lists the names that a config may use: methods, networks, datasets or keys.

python -m sskd_jax list methods|networks|datasets|keys
"""

from collections.abc import Sequence

from sskd_jax.commands import make_parser
from sskd_jax.names import LISTS
from sskd_jax.system.console import console


def run(argv: Sequence[str]) -> None:
    """Prints the list that a command line names."""
    parser = make_parser("list", __doc__)
    parser.add_argument("what", choices=LISTS)
    for line in LISTS[parser.parse_args(argv).what]():
        console.print(line)
