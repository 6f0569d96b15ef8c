"""Sends a signal before every file operation of a program, one signal per run of it."""

import itertools
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from experiments.bench.chaos.runs import Outcome, State, in_a_copy, judged
from sskd_jax.system.early import GO_ON

Operation = tuple[str, str]  # Python's name for it, such as "os.rename", and the path


class Target(NamedTuple):
    """A program to be attacked.

    Attributes:
      name: in the table of outcomes.
      prepare: (folder) -> None; puts the files that the program starts from into a new folder.
      run: (folder) -> None; the program itself.
      ending: (folder) -> the state of the folder after the program has finished.
      halves: (folder, expected) -> the names of half-written files that look complete, after the
        program was stopped; `expected` is the state after it has finished.
    """

    name: str
    prepare: Callable[[pathlib.Path], None]
    run: Callable[[pathlib.Path], None]
    ending: Callable[[pathlib.Path], State]
    halves: Callable[[pathlib.Path, State], list[str]] = lambda folder, expected: []


def watch(folder: pathlib.Path, moment: int = 0, number: int = 0) -> list[Operation]:
    """Returns a list to which this process adds its file operations below a folder from now on.

    Before the operation at `moment`, counted from 1, it sends itself the signal `number`; a moment
    of 0 sends none. Operations of C++ are not seen, such as those by which tensorstore writes the
    arrays of a checkpoint.
    """
    seen: list[Operation] = []
    counter, prefix = itertools.count(1), f"{folder}{os.sep}"

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event != "open" and not event.startswith(("os.", "shutil.")):
            return
        if not (path := next((name for name in paths(args) if name.startswith(prefix)), None)):
            return
        seen.append((event, path.removeprefix(prefix)))
        if next(counter) == moment:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)
    return seen


def paths(args: tuple[Any, ...]) -> Iterator[str]:
    """The paths among the arguments of an audit event: names, or descriptors of open folders."""
    texts = [os.fsdecode(arg) for arg in args if isinstance(arg, (str, bytes, os.PathLike))]
    yield from texts
    for arg in args:
        if type(arg) is int and arg > 2 and os.path.isdir(link := f"/proc/self/fd/{arg}"):
            yield os.path.join(os.readlink(link), *texts[:1])


def chosen(count: int, every: int, most: int | None) -> list[int]:
    """The moments to attack: each `every`-th of 1 to `count`, or of these `most`, evenly spread."""
    moments = range(1, count + 1, every)
    if most is None or most >= len(moments):
        return list(moments)
    return [moments[(2 * i + 1) * len(moments) // (2 * most)] for i in range(most)]


def stopped_well(code: int, number: int) -> bool:
    """Whether a process may end with this code after a signal; 0 if the signal came too late."""
    return code in ((0, -signal.SIGKILL) if number == signal.SIGKILL else (0, GO_ON))


def attack(
    target: Target,
    folder: pathlib.Path,
    signals: Sequence[int],
    every: int = 1,
    most: int | None = None,
) -> Iterator[Outcome]:
    """Runs a program undisturbed; then, for each moment, with a signal there and again to its end.

    Args:
      target: the program.
      folder: for the program's files.
      signals: the numbers of the signals, which are sent in turn.
      every: 3 for every third moment, and so on.
      most: the largest number of moments; None: all.
    """

    def traced(place: pathlib.Path, moment: int = 0, number: int = 0) -> list[Operation]:
        seen = watch(place, moment, number)
        try:
            target.run(place)
        except SystemExit as end:
            if end.code:
                raise
        return seen

    place = folder / target.name.replace(" ", "_")

    def begin() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        target.prepare(place)

    begin()
    whole = in_a_copy(lambda: traced(place))
    if whole.code:
        sys.exit(f"error: {target.name} does not run: {whole.printed}")
    expected = in_a_copy(lambda: target.ending(place)).value
    turn = itertools.cycle(signals)
    for moment in chosen(len(whole.value), every, most):
        begin()
        number = next(turn)
        kind = f"{target.name}, {signal.Signals(number).name}"
        where = f"{moment} of {len(whole.value)}, about {' '.join(whole.value[moment - 1])}"
        stopped = in_a_copy(lambda: traced(place, moment, number))  # noqa: B023
        if not stopped_well(stopped.code, number) or "Traceback" in stopped.printed:
            reason = f"ended with code {stopped.code}: {stopped.printed[-3000:]}"
            yield Outcome(kind, where, "mismatch", reason)
            continue
        if halves := target.halves(place, expected):
            yield Outcome(kind, where, "mismatch", f"half written: {', '.join(halves)}")
            continue
        ended = in_a_copy(lambda: traced(place))
        state = {} if ended.code else in_a_copy(lambda: target.ending(place)).value
        outcome = judged(kind, where, ended, state, expected)
        is_right = outcome.verdict == "right"  # a signal excuses no loss and no refusal
        yield outcome if is_right else outcome._replace(verdict="mismatch")
