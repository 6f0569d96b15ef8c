"""Kills a run at random moments, starts it again each time, and compares its final result."""

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
UNFINISHED = ".orbax-checkpoint-tmp"  # the end of a checkpoint's name while it is written


class Kill(NamedTuple):
    """A kill of the process.

    Attributes:
      stage: the name of the stage that had written last, or "before any".
      writing: whether a checkpoint was half written.
    """

    stage: str
    writing: bool


def start(flags: Sequence[str], workdir: pathlib.Path) -> subprocess.Popen:
    """Starts a run in a process of its own."""
    command = [sys.executable, "-m", "sskd_jax.main", *flags, SAVE_OFTEN, f"--workdir={workdir}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> int:
    """Waits for a run to end, which must succeed or be killed; returns its exit code."""
    complaint = process.communicate()[1]
    if process.returncode not in (0, -signal.SIGKILL):
        sys.exit(f"error: a run ended with exit code {process.returncode}: {complaint[-2000:]}")
    return process.returncode


def wait(
    process: subprocess.Popen, workdir: pathlib.Path, rng: random.Random, longest: float
) -> None:
    """Waits for a random moment at which to kill the process, or until the process ends.

    Half of these moments are drawn from the first `longest` seconds; the others come while a
    checkpoint is written.
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
    """Kills a process that was started at the time `began`; None if it had finished by itself."""
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
    """Starts and kills runs until there were `count` kills; yields an outcome for each of them."""
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
