"""Stopping on request: at the next step after a signal or a time limit, with everything saved."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from sskd_jax.system.early import SIGNALS, STDERR
from sskd_jax.types import Stopped

STDOUT = 1  # its file descriptor


class StoppedHere(Stopped):
    """A signal ends this process at once; other processes of its run do not know of it."""


class Interruption:
    """Requests to stop: SIGTERM, SIGINT, SIGHUP, and a limit in seconds, counted from now.

    Signals are caught within `with`, in the main thread, except SIGHUP if it is ignored, as under
    `nohup`.

    Attributes:
      reason: of the stop that is due, or "".
      deferring: whether a first signal waits until `due` is called; otherwise it stops immediately.
    """

    def __init__(self, time_limit: float = 0.0, deferring: bool = False):
        self.reason, self.deferring, self.signalled = "", deferring, False
        self.limit, self.deadline = time_limit, time.monotonic() + (time_limit or math.inf)

    def __enter__(self) -> "Interruption":
        self.previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self.previous[number] = signal.signal(number, self.receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: a first one while `deferring` is noted, any other raises `Stopped`."""
        again, self.signalled = self.signalled, True
        self.reason = signal.Signals(number).name
        if number == signal.SIGHUP:
            forget_lost_terminal()
        if again or not self.deferring:
            raise StoppedHere(f"{self.reason}: the same command goes on from the last checkpoint")
        if os.isatty(STDERR):
            text = f"\n{self.reason}: saves at the next step; once more stops at once\n"
            os.write(STDERR, text.encode())  # not print, which the signal may have interrupted

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A context in which a first signal waits until `due` is called."""
        before, self.deferring = self.deferring, True
        try:
            yield
        finally:
            self.deferring = before

    def due(self) -> bool:
        """Whether to stop now: a signal was received, or the time limit is over."""
        if time.monotonic() > self.deadline:
            self.reason = self.reason or f"time limit of {self.limit:g} s"
        return bool(self.reason)


def forget_lost_terminal() -> None:
    """Redirects output to a lost terminal to /dev/null, so that printing does not break saving."""
    for descriptor in (STDOUT, STDERR):
        try:
            os.write(descriptor, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
