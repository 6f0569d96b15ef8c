"""The lines, tables and progress bars that the user sees during a run."""

import collections
import contextlib
import datetime
import errno
import os
import sys
import time
from types import TracebackType
from typing import Any, NoReturn, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from sskd_jax.types import UserError

QUIET_SECONDS = 5.0  # between two lines about epochs
LOG_SECONDS = 30.0  # between two lines within an epoch if there is no terminal for a bar
PACE_DISPATCHES = 1000  # over which the pace is averaged: about a quarter of an hour
IN_PERCENT = ("top1", "top5", "accuracy", "contrastive")


class Output(Console):
    """Standard output, to which text is written unchanged.

    If its reader has gone (`| head -1`, a closed terminal), further output is discarded without an
    error.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints a line.

        Raises:
          UserError: standard output can't be written, such as to a full disk.
        """
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            self.on_broken_pipe()
        except OSError as error:
            if error.errno == errno.EIO:  # the terminal was closed, and its signal is ignored
                return self.on_broken_pipe()
            write_nowhere(sys.stdout)
            raise UserError(
                f"cannot write to standard output ({error.strerror}): make room, or send it "
                "elsewhere"
            ) from error

    def on_broken_pipe(self) -> None:
        self.quiet = True
        write_nowhere(sys.stdout)


def write_nowhere(stream: TextIO) -> None:
    """Redirects a stream to /dev/null, so that flushing it at the exit raises no error."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def complain(text: str) -> None:
    """Prints a line on standard error; if that is closed, the line is discarded."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        write_nowhere(sys.stderr)


def complain_of(mistake: str) -> None:
    """Prints a user's mistake in one line on standard error."""
    complain(f"error: {' '.join(mistake.split())}")


def mistakes() -> tuple[type[Exception], ...]:
    """The errors that end a command with one line.

    TensorFlow's, which are those of buckets (gs://), count only if it was imported.
    """
    errors = getattr(sys.modules.get("tensorflow"), "errors", None)
    return (UserError, OSError, errors.OpError) if errors else (UserError, OSError)


def fail(mistake: str) -> NoReturn:
    """Prints a user's mistake in one line on standard error, and exits with code 2."""
    complain_of(mistake)
    sys.exit(2)


if hasattr(sys.stdout, "reconfigure"):  # characters that the terminal's encoding lacks are shown
    sys.stdout.reconfigure(errors="backslashreplace")  # as \xfc
console = Output(highlight=False, soft_wrap=True, markup=False, emoji=False)
if not console.is_terminal:
    console.width = 120


def show(name: str, value: float) -> str:
    """A figure as text: accuracies in per cent, others with three digits, or three decimals."""
    if name.endswith(IN_PERCENT):
        return f"{100 * value:.2f} %"
    return f"{value:.3g}" if value < 1 else f"{value:.3f}"


def in_short(figures: dict[str, float]) -> str:
    """The figures of an epoch that fit in a line: training loss, held-out accuracies except top5.

    All figures are in metrics.jsonl.
    """
    shown = [
        name
        for name in figures
        if name == "train/loss"
        or not name.startswith("train/")
        and name.rsplit("/")[-1] in set(IN_PERCENT) - {"top5"}
    ]
    return "  ".join(f"{name} {show(name, figures[name])}" for name in shown)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table whose first column is aligned to the left and the others to the right.

    Columns whose cells are all empty are left out.
    """
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    drawn = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for i in used:
        drawn.add_column(columns[i], justify="right" if i else "left")
    for row in rows:
        drawn.add_row(*(row[i] for i in used))
    console.print(drawn)


class StageProgress:
    """The progress of a stage: a bar on a terminal, otherwise occasional lines.

    Use it as a context manager.
    """

    def __init__(self, stage: str, step: int, total: int, images_per_step: int):
        self.stage, self.step, self.total = stage, step, total
        self.images_per_step = images_per_step
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TextColumn("{task.fields[pace]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(stage, completed=step, total=total, pace="compiling")
        # (step, time) after each of the newest dispatches. The first includes compilation, so the
        # pace counts from its end; old ones are dropped, so that it recovers after a suspension.
        self.dispatches = collections.deque[tuple[int, float]](maxlen=PACE_DISPATCHES)
        self.printed = time.monotonic()

    def __enter__(self) -> "StageProgress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.bar.stop()
        except OSError:  # the terminal was closed
            console.on_broken_pipe()

    def pace(self) -> str:
        """Images per second and time left, both including evaluations and checkpoints."""
        first_step, first_time = self.dispatches[0]
        steps = self.step - first_step
        if not steps:
            return "compiled"
        seconds = (time.monotonic() - first_time) / steps
        left = datetime.timedelta(seconds=round((self.total - self.step) * seconds))
        return f"{self.images_per_step / seconds:,.0f} images/s  {left} left"

    def advance(self, step: int) -> None:
        """Shows that the steps before `step` are done."""
        self.step = step
        self.dispatches.append((step, time.monotonic()))
        self.bar.update(self.task, completed=step, pace=self.pace())
        if not console.is_terminal and time.monotonic() - self.printed > LOG_SECONDS:
            self.print(f"step {step}/{self.total}")

    def evaluating(self) -> None:
        self.bar.update(self.task, pace="evaluating")

    def epoch(self, epoch: int, epochs: int, figures: dict[str, float]) -> None:
        """Prints a line about a finished epoch.

        If epochs take less than `QUIET_SECONDS`, only the first, the last and some in between are
        printed.
        """
        if epoch == epochs or epoch == 1 or time.monotonic() - self.printed > QUIET_SECONDS:
            self.print(f"epoch {epoch}/{epochs}  {in_short(figures)}")

    def print(self, text: str) -> None:
        """Prints a line of the stage, the text and the pace."""
        self.printed = time.monotonic()
        console.print(f"{self.stage}  {text}  {self.pace()}")
