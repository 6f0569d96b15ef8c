"""Trains what a config asks for, or goes on: python -m sskd_jax.main under another name."""

import sys
from collections.abc import Sequence

from absl import app

from sskd_jax import main


def run(argv: Sequence[str]) -> None:
    """Trains what a command line asks for."""
    app.run(main.main, argv=[sys.argv[0], *argv], flags_parser=main.parse)
