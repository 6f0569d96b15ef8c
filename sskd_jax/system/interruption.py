"""Stopping on request: a signal or a time limit ends training at the next step, with everything saved."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from sskd_jax.types import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """SIGTERM, SIGINT and a limit in seconds from now on. Catches signals within `with`, in the main thread.

    Attributes:
      reason: of the stop that is due, or "".
      deferring: whether a first signal waits until it is asked whether a stop is due.
    """

    def __init__(self, time_limit: float = 0.0, deferring: bool = False):
        self.reason, self.deferring = "", deferring
        self.limit, self.deadline = time_limit, time.monotonic() + (time_limit or math.inf)

    def __enter__(self) -> "Interruption":
        self.previous = {}
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self.receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The first signal may wait; otherwise it stops at once."""
        again, self.reason = self.reason, signal.Signals(number).name
        if again or not self.deferring:
            raise Stopped(f"{self.reason}: the same command goes on from the last checkpoint")
        if os.isatty(2):  # os.write: a print may be interrupted here in the middle
            os.write(
                2, f"\n{self.reason}: saves at the next step; once more stops at once\n".encode()
            )

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        before, self.deferring = self.deferring, True
        try:
            yield
        finally:
            self.deferring = before

    def due(self) -> bool:
        if time.monotonic() > self.deadline:
            self.reason = self.reason or f"time limit of {self.limit:g} s"
        return bool(self.reason)
