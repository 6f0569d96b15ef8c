"""Kills a run at random moments, starts it again each time, and compares what it ends with."""

import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from experiments.bench.chaos.runs import (
    SAVE_OFTEN,
    Ended,
    Outcome,
    ending,
    find,
    in_a_copy,
    judged,
    small,
    stages,
)

SMALL = small("('scratch', 'kd', 'sskd')", batch_size=32, share=0.2)
UNFINISHED = ".orbax-checkpoint-tmp"  # how the name of a checkpoint ends until it is whole


class Kill(NamedTuple):
    """A kill of the process.

    Attributes:
      stage: that had written last.
      writing: whether a checkpoint was half written.
    """

    stage: str
    writing: bool


def start(flags: Sequence[str], workdir: pathlib.Path) -> subprocess.Popen:
    """A run in a process of its own."""
    command = [sys.executable, "-m", "sskd_jax.main", *flags, SAVE_OFTEN, f"--workdir={workdir}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


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


def attack(
    flags: Sequence[str], folder: pathlib.Path, count: int, rng: random.Random
) -> Iterator[Outcome]:
    """Runs, one after the other, until there were so many kills; yields an outcome for each."""
    began = time.monotonic()
    finish(start(flags, folder / "whole"))
    longest, done, runs = time.monotonic() - began, 0, 0
    expected = in_a_copy(lambda: ending(folder / "whole")).value
    while done < count:
        workdir, kills = folder / f"killed{runs}", []
        runs += 1
        while done + len(kills) < count:
            began, process = time.time(), start(flags, workdir)
            wait(process, workdir, rng, longest)
            if (killed := kill(process, workdir, began)) is None:
                break
            kills.append(killed)
        finish(start(flags, workdir))
        state = in_a_copy(lambda: ending(workdir)).value  # noqa: B023
        for stage, writing in kills:
            half = ", writing a checkpoint" if writing else ""
            yield judged(f"SIGKILL in {stage}{half}", workdir.name, Ended(0, ""), state, expected)
        done += len(kills)
