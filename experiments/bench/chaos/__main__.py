"""Attacks a small run, and compares its result with that of an undisturbed run.

    python -m experiments.bench.chaos --kills=50
    python -m experiments.bench.chaos --signals --damage --commands

--kills: SIGKILL at random moments; half of them wait for a checkpoint that is being written, the
others come at any moment from the start of the process on. --signals: SIGTERM and SIGKILL in turn,
before every operation of Python with a file of the workdir. --damage: every file in the workdirs of
a finished and of a killed run is emptied, halved, changed by one bit and removed, one at a time.
--commands: as --signals, but in commands that export a student, record runs and prepare a dataset.
After every attack, the same command is run again. An attack has passed if the files of the command,
or the parameters, statistics, optimizer state, metrics and results of the run, are then the same as
without it, bit for bit; after damage, also if one line reports the loss or refuses to resume.
Otherwise the exit code is 1. Flags that are not listed by --help are passed to sskd_jax.main.
"""

import argparse
import collections
import pathlib
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence

from absl import logging

from experiments.bench.chaos import commands, damage, kills, moments, runs
from experiments.bench.chaos.runs import VERDICTS, Outcome
from sskd_jax.system.console import console, table

COLUMNS = ["attack", "moments or files", "ended right", "told", "refused with a line", "mismatches"]
SIGNALS = (signal.SIGTERM, signal.SIGKILL)


def attacks(
    args: argparse.Namespace, flags: Sequence[str], folder: pathlib.Path
) -> Iterator[Outcome]:
    """Yields the outcomes of all attacks that the arguments ask for."""
    rng = random.Random(args.seed)
    if args.kills:
        yield from kills.attack(flags or kills.SMALL, folder, args.kills, rng)
    if args.signals or args.damage or args.commands:
        runs.warm_up()
    flags = flags or runs.TINY
    if args.signals:
        run = moments.Target(
            name="run",
            prepare=lambda workdir: None,
            run=lambda workdir: runs.train(flags, workdir),
            ending=runs.ending,
        )
        yield from moments.attack(run, folder, SIGNALS, args.every, args.moments)
    if args.damage:
        yield from damage.attack(flags, folder, rng, args.every, args.moments)
    if args.commands:
        for target in commands.targets(flags, folder):
            yield from moments.attack(target, folder, SIGNALS, args.every, args.moments)


def report(outcomes: Sequence[Outcome]) -> None:
    """Prints a table with the numbers of verdicts by kind of attack."""
    counts = collections.Counter((outcome.attack, outcome.verdict) for outcome in outcomes)
    kinds = list(dict.fromkeys(outcome.attack for outcome in outcomes))
    rows = [[counts[kind, verdict] for verdict in VERDICTS] for kind in kinds]
    wrong = sum(outcome.verdict == "mismatch" for outcome in outcomes)
    table(
        f"{len(outcomes)} attacks, {wrong} mismatches",
        COLUMNS,
        [[kind, *map(str, [sum(row), *row])] for kind, row in zip(kinds, rows, strict=True)],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the attacks and prints their outcomes; returns the exit code, 1 if one is a mismatch."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.chaos", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=0, help="how many, at random moments")
    parser.add_argument("--signals", action="store_true", help="one at every file operation")
    parser.add_argument("--damage", action="store_true", help="to every file of the workdir")
    parser.add_argument("--commands", action="store_true", help="signals in the other commands")
    parser.add_argument("--every", type=int, default=1, help="only every so many moments or files")
    parser.add_argument("--moments", type=int, help="at most so many of them, evenly spread")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and bits")
    args, flags = parser.parse_known_args(argv)
    if not (args.kills or args.signals or args.damage or args.commands):
        parser.error("give --kills=50, --signals, --damage or --commands")
    logging.set_verbosity(logging.ERROR)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for outcome in attacks(args, flags, pathlib.Path(folder)):
            outcomes.append(outcome)
            wrong = f": {outcome.reason}" * (outcome.verdict == "mismatch")
            where = f"{outcome.attack}, {outcome.place}"
            console.print(f"{len(outcomes)}  {where}: {outcome.verdict}{wrong}")
    report(outcomes)
    return int(any(outcome.verdict == "mismatch" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
