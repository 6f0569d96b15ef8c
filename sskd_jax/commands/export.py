"""Exports a network, such as the student or the teacher, from its workdir to one file.

  python -m sskd_jax export runs/quickstart/seed-0 --stage=sskd/student --format=pth

A JSON file next to it says how the network expects images and which accuracy it reached, and
README.md is a model card in the format of the Hugging Face hub.
"""

from collections.abc import Sequence

from sskd_jax.commands import make_parser
from sskd_jax.engine.devices import leave_accelerators
from sskd_jax.exchange.export import FORMATS, export_network
from sskd_jax.system.console import console


def run(argv: Sequence[str]) -> None:
    """Exports the network that a command line names, and prints a line."""
    parser = make_parser("export", __doc__)
    parser.add_argument("workdir", help="of the run that trained it")
    parser.add_argument("--format", choices=FORMATS, default="pth", help="default: pth")
    parser.add_argument(
        "--stage", help="such as sskd/student or teacher; default: the only student"
    )
    parser.add_argument("--best", action="store_true", help="the best epoch, not the last one")
    parser.add_argument("--out", help="the file, or a folder for it; default: the workdir")
    args = parser.parse_args(argv)
    leave_accelerators()
    console.print(export_network(args.workdir, args.format, args.stage, args.out, args.best))
