"""What a person sees while a run goes on."""

import datetime
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

QUIET_SECONDS = 5.0  # between two lines about epochs
LOG_SECONDS = 30.0  # between two lines within an epoch where there is no terminal to draw a bar on

console = Console(highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = 120


def show(name: str, value: float) -> str:
    """A figure as people read it: shares in per cent, losses with three digits."""
    if name.rsplit("/")[-1] in ("top1", "top5", "accuracy", "contrastive"):
        return f"{100 * value:.2f} %"
    return f"{value:.3g}" if value < 1 else f"{value:.3f}"


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    drawn = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="right" if i else "left")
    for row in rows:
        drawn.add_row(*row)
    console.print(drawn)


class StageProgress:
    """One stage on the screen: a bar where there is a terminal, a line now and then where there is none."""

    def __init__(self, stage: str, step: int, total: int, images_per_step: int):
        self.stage, self.step, self.total, self.images_per_step = (
            stage,
            step,
            total,
            images_per_step,
        )
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TextColumn("{task.fields[pace]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(stage, completed=step, total=total, pace="compiling")
        self.first: tuple[int, float] | None = (
            None  # step and time behind the first dispatch, which compiled
        )
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
        self.bar.stop()

    def pace(self) -> str:
        """Rate and time left, evaluations and checkpoints included."""
        steps = self.step - self.first[0]
        if not steps:
            return "compiled"
        seconds = (time.monotonic() - self.first[1]) / steps
        left = datetime.timedelta(seconds=round((self.total - self.step) * seconds))
        return f"{self.images_per_step / seconds:,.0f} images/s  {left} left"

    def advance(self, step: int) -> None:
        self.step = step
        self.first = self.first or (step, time.monotonic())
        self.bar.update(self.task, completed=step, pace=self.pace())
        if not console.is_terminal and time.monotonic() - self.printed > LOG_SECONDS:
            self.print(f"step {step}/{self.total}")

    def evaluating(self) -> None:
        self.bar.update(self.task, pace="evaluating")

    def epoch(self, epoch: int, epochs: int, figures: dict[str, float]) -> None:
        """A line about a finished epoch; where epochs take less than seconds, about some of them and the last."""
        if epoch == epochs or epoch == 1 or time.monotonic() - self.printed > QUIET_SECONDS:
            text = "  ".join(f"{name} {show(name, value)}" for name, value in figures.items())
            self.print(f"epoch {epoch}/{epochs}  {text}")

    def print(self, text: str) -> None:
        self.printed = time.monotonic()
        console.print(f"{self.stage}  {text}  {self.pace()}")
