"""Handles signals that arrive during the slow imports; this module imports nothing slow itself."""

import contextlib
import os
import signal
from types import FrameType
from typing import NoReturn

STDERR = 2  # its file descriptor
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GO_ON = 75  # exit code, EX_TEMPFAIL: nothing is wrong, the same command goes on
GOES_ON = "the same command goes on from where it is"
ANEW = "the same command begins anew"  # for commands that are done in a minute


def catch_signals(advice: str = GOES_ON) -> None:
    """Has a signal end this process with code 75: nothing runs yet that could be saved.

    Args:
      advice: what the line says that the process ends with.
    """

    stderr = STDERR
    with contextlib.suppress(OSError):  # where it is closed
        stderr = os.dup(STDERR)  # a module may have it lead nowhere while it is imported

    def end(number: int, frame: FrameType | None) -> NoReturn:
        """Handles a signal; nothing is cleaned up, as a module may be half imported."""
        try:
            os.write(stderr, f"stopped: {signal.Signals(number).name}: {advice}\n".encode())
        finally:
            os._exit(GO_ON)

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
