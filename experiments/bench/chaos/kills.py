"""Kills a run at random moments, starts it again each time, and compares it to one without a kill.

    python -m experiments.bench.chaos --kills=50
    python -m experiments.bench.chaos --kills=50 --config=configs/cifar.py \
        --config.teacher.checkpoint=DIR ...

Flags that are not its own go to sskd_jax.main. Half of the kills (SIGKILL) wait for a checkpoint
that is being written, the others come at any moment from the start of the process on. The run ends
as it should when parameters, statistics, optimizer state and metrics are the same bit for bit, in
every stage; otherwise the exit code is 1.
"""

import argparse
import collections
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from sskd_jax.system.console import console, table
from sskd_jax.workdir.checkpoint import Checkpoints

SECTIONS = ("teacher", "head", "student")
SMALL = (
    "--config=configs/quickstart.py",
    "--config.teacher.model=resnet8",
    *(
        f"--config.{name}.{setting}"
        for name in SECTIONS
        for setting in ("epochs=3", "milestones=(0.67,)", "batch_size=32", "fraction=0.2")
    ),
)
UNFINISHED = ".orbax-checkpoint-tmp"  # how the name of a checkpoint ends until it is whole


class Kill(NamedTuple):
    """A kill of the process.

    Attributes:
      stage: that had written last.
      writing: whether a checkpoint was half written.
    """

    stage: str
    writing: bool


def command(flags: Sequence[str], workdir: pathlib.Path) -> list[str]:
    """A run that writes a checkpoint after every dispatch."""
    settings = [*flags, "--config.save_seconds=0", f"--workdir={workdir}"]
    return [sys.executable, "-m", "sskd_jax.main", *settings]


def find(folder: pathlib.Path, ending: str) -> set[pathlib.Path]:
    """Files and folders below whose names end so; what vanishes meanwhile is none."""
    return {
        pathlib.Path(place, name)
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if name.endswith(ending)
    }


def stages(workdir: pathlib.Path) -> list[str]:
    """The names of the stages that were begun."""
    return sorted(str(file.parent.relative_to(workdir)) for file in find(workdir, "stage.json"))


def start(flags: Sequence[str], workdir: pathlib.Path) -> subprocess.Popen:
    """A run in a process of its own."""
    return subprocess.Popen(
        command(flags, workdir), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> int:
    """Waits for the end of a run, which must come well or by a kill; returns its exit code."""
    complaint = process.communicate()[1]
    if process.returncode not in (0, -signal.SIGKILL):
        sys.exit(f"error: a run ended with exit code {process.returncode}: {complaint[-2000:]}")
    return process.returncode


def wait(
    process: subprocess.Popen, workdir: pathlib.Path, rng: random.Random, longest: float
) -> None:
    """Until a moment to kill the process, or until it ends.

    It is any moment within `longest` seconds, or one while a checkpoint is written.
    """
    if rng.random() < 0.5:
        deadline = time.monotonic() + rng.uniform(0, longest)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return
    for _ in range(rng.randint(1, 8)):
        before = find(workdir, UNFINISHED)
        while process.poll() is None and not find(workdir, UNFINISHED) - before:
            time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.03))


def kill(process: subprocess.Popen, workdir: pathlib.Path, began: float) -> Kill | None:
    """Kills a process that was started at the time `began`; None where it has ended by itself."""
    process.kill()
    if not finish(process):
        return None

    def last_written(stage: str) -> float:
        return (workdir / stage).stat().st_mtime

    newest = max(stages(workdir), key=last_written, default="before any")
    return Kill(newest, any(path.stat().st_mtime > began for path in find(workdir, UNFINISHED)))


def differences(found: pathlib.Path, expected: pathlib.Path) -> list[str]:
    """The files and stages that a run has left otherwise than another one."""
    wrong = [
        name
        for name in ("metrics.jsonl", "results.json")
        if (found / name).read_bytes() != (expected / name).read_bytes()
    ]
    if stages(found) != stages(expected):
        return [*wrong, "stages"]
    return wrong + [
        stage for stage in stages(expected) if not same_states(found / stage, expected / stage)
    ]


def same_states(found: pathlib.Path, expected: pathlib.Path) -> bool:
    """Whether the last and the best checkpoint of a stage hold the same bits."""
    with Checkpoints(found) as ours, Checkpoints(expected) as theirs:
        pairs = ((ours.newest(), theirs.newest()), (ours.best(), theirs.best()))
    return all(same_bits(*pair) for pair in pairs)


def same_bits(found: Any, expected: Any) -> bool:
    """Whether two trees have the same structure, and their leaves types and values alike."""
    if jax.tree.structure(found) != jax.tree.structure(expected):
        return False
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(x.dtype == y.dtype and np.array_equal(x, y, equal_nan=True) for x, y in leaves)


def torment(
    flags: Sequence[str], folder: pathlib.Path, kills: int, rng: random.Random
) -> tuple[list[Kill], list[str]]:
    """Runs, one after the other, until there were so many kills.

    Returns the kills, and all differences at the ends of the runs.
    """
    began = time.monotonic()
    finish(start(flags, folder / "whole"))
    longest, done, wrong, runs = time.monotonic() - began, [], [], 0
    while len(done) < kills:
        workdir, runs = folder / f"killed{runs}", runs + 1
        while len(done) < kills:
            began, process = time.time(), start(flags, workdir)
            wait(process, workdir, rng, longest)
            if (killed := kill(process, workdir, began)) is None:
                break
            done.append(killed)
            half = ", writing" if killed.writing else ""
            console.print(f"kill {len(done)}/{kills}  {killed.stage}{half}")
        finish(start(flags, workdir))
        wrong += [f"{workdir.name}: {name}" for name in differences(workdir, folder / "whole")]
    return done, wrong


def report(kills: Sequence[Kill], wrong: Sequence[str]) -> None:
    """A table of the kills, and a line for everything that differs."""
    counts = collections.Counter(kill.stage for kill in kills)
    writing = collections.Counter(kill.stage for kill in kills if kill.writing)
    table(
        f"{len(kills)} kills, {len(wrong)} mismatches",
        ["stage", "kills", "while a checkpoint was written"],
        [[stage, str(counts[stage]), str(writing[stage])] for stage in sorted(counts)],
    )
    for line in wrong:
        console.print(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.chaos", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    args, flags = parser.parse_known_args(argv)
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        rng = random.Random(args.seed)
        kills, wrong = torment(flags or SMALL, pathlib.Path(folder), args.kills, rng)
    report(kills, wrong)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
