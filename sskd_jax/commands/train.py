"""Trains what a config describes, or resumes; the same as python -m sskd_jax.main."""

import sys
from collections.abc import Sequence

from absl import app

from sskd_jax import main


def run(argv: Sequence[str]) -> None:
    """Trains what the flags of a command line describe."""
    app.run(main.main, argv=[sys.argv[0], *argv], flags_parser=main.parse)
