"""A signal at every file operation of a program, one after the other."""

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

Operation = tuple[str, str]  # what Python does, such as "os.rename", and the path


class Target(NamedTuple):
    """A program to be attacked.

    Attributes:
      name: as in the table.
      prepare: (folder) -> None makes what the program starts from in a new folder.
      run: (folder) -> None is the program.
      ending: (folder) -> what it left, once it came to its end.
      halves: (folder, expected) -> what it left half written, but under the name of a whole; asked
        behind the signal.
    """

    name: str
    prepare: Callable[[pathlib.Path], None]
    run: Callable[[pathlib.Path], None]
    ending: Callable[[pathlib.Path], State]
    halves: Callable[[pathlib.Path, State], list[str]] = lambda folder, expected: []


def watch(folder: pathlib.Path, moment: int = 0, number: int = 0) -> list[Operation]:
    """Lists what this process does from now on with files below a folder.

    Before the operation at `moment`, counted from 1, it sends itself the signal `number`. What C++
    does is not seen: tensorstore writes the arrays of a checkpoint, between operations of Python's.
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
    """The moments to attack, of 1 to `count`: each, every so many, or `most`, evenly spread."""
    moments = range(1, count + 1, every)
    if most is None or most >= len(moments):
        return list(moments)
    return [moments[(2 * i + 1) * len(moments) // (2 * most)] for i in range(most)]


def stopped_well(code: int, number: int) -> bool:
    """Whether an exit code is that of a process that got a signal; 0 where it was done by then."""
    return code in ((0, -signal.SIGKILL) if number == signal.SIGKILL else (0, GO_ON))


def attack(
    target: Target,
    folder: pathlib.Path,
    signals: Sequence[int],
    every: int = 1,
    most: int | None = None,
) -> Iterator[Outcome]:
    """Runs a program once as it is, then with a signal at each moment and once more to its end.

    Args:
      target: the program.
      folder: where it may work.
      signals: the numbers of the signals, in turn.
      every: only every so many moments.
      most: so many moments at most.
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
        is_right = outcome.verdict == "right"  # a signal damages nothing that could be told
        yield outcome if is_right else outcome._replace(verdict="mismatch")
