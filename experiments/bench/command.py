"""What all benchmarks share: they read flags, measure, and report a table."""

import json
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

from sskd_jax import main as cli
from sskd_jax.engine.devices import keep_programs
from sskd_jax.system.console import fail, mistakes, table
from sskd_jax.workdir.environment import environment
from sskd_jax.workdir.files import Row

OUT = flags.DEFINE_string("out", "benchmark.json", "Where the figures go.")

Measure = Callable[[ConfigDict], list[Row]]


def run(measure: Measure) -> None:
    """Runs a benchmark as a command, with absl's flags."""
    app.run(partial(main, measure), flags_parser=cli.parse)


def main(measure: Measure, argv: Sequence[str]) -> None:
    """Measures and reports; a user's mistake is printed in one line and ends the process."""
    logging.set_verbosity(logging.ERROR)
    keep_programs()
    try:
        pathlib.Path(OUT.value).parent.mkdir(parents=True, exist_ok=True)  # before it takes minutes
        report(cli.CONFIG.value, measure(cli.CONFIG.value))
    except mistakes() as error:
        fail(str(error))


def report(config: ConfigDict, rows: list[Row]) -> None:
    """Prints the rows as a table, and writes them with config and environment to --out, as JSON."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table(OUT.value, columns, [[cell(row.get(key)) for key in columns] for row in rows])
    content = {
        "config": config.to_dict(),
        "environment": environment(jax.local_devices(), {}),
        "rows": rows,
    }
    pathlib.Path(OUT.value).write_text(json.dumps(content, indent=2) + "\n")


def cell(value: Any) -> str:
    return "" if value is None else str(value)
