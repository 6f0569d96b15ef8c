"""Damages every file of a workdir, one at a time, and runs the command again."""

import pathlib
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

from experiments.bench.chaos.moments import chosen, watch
from experiments.bench.chaos.runs import Outcome, ending, in_a_copy, judged, train


def emptied(file: pathlib.Path, rng: random.Random) -> None:
    file.write_bytes(b"")


def halved(file: pathlib.Path, rng: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def with_a_bit_flipped(file: pathlib.Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def removed(file: pathlib.Path, rng: random.Random) -> None:
    file.unlink()


DAMAGES: tuple[Callable[[pathlib.Path, random.Random], None], ...] = (
    emptied,
    halved,
    with_a_bit_flipped,
    removed,
)


def attack(
    flags: Sequence[str],
    folder: pathlib.Path,
    rng: random.Random,
    every: int = 1,
    most: int | None = None,
) -> Iterator[Outcome]:
    """Damages each file of a finished and of a killed run in every way, and starts the run again.

    Args:
      flags: of the run.
      folder: for the workdirs.
      rng: draws the bits that are flipped.
      every: 3 for every third case, and so on; a case is one damage to one file.
      most: the largest number of cases; None: all.
    """
    workdir, finished, killed = folder / "damaged", folder / "finished", folder / "killed"

    def traced(moment: int) -> int:
        seen = watch(workdir, moment, signal.SIGKILL)
        try:
            train(flags, workdir)
        except SystemExit:
            return len(seen)

    whole = in_a_copy(lambda: traced(0))
    if not whole.value:
        sys.exit(f"error: the run does not come to its end: {whole.printed}")
    expected = in_a_copy(lambda: ending(workdir)).value
    workdir.rename(finished)
    in_a_copy(lambda: traced(whole.value * 3 // 4))
    workdir.rename(killed)
    cases = [
        (sound, file.relative_to(sound), damage)
        for sound in (finished, killed)
        for file in sorted(sound.rglob("*"))
        if file.is_file() and file.name != ".lock"
        for damage in DAMAGES
        if file.stat().st_size or damage is removed
    ]
    for number in chosen(len(cases), every, most):
        sound, name, damage = cases[number - 1]
        shutil.copytree(sound, workdir)
        damage(workdir / name, rng)
        ended = in_a_copy(lambda: train(flags, workdir))
        state = {} if ended.code else in_a_copy(lambda: ending(workdir)).value
        kind = f"{damage.__name__.replace('_', ' ')}, {sound.name} run"
        yield judged(kind, str(name), ended, state, expected)
        shutil.rmtree(workdir)
