"""Handles signals that arrive during the slow imports; this module imports nothing slow itself."""

import contextlib
import os
import signal
from types import FrameType
from typing import NoReturn

STDERR = 2  # its file descriptor
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GO_ON = 75  # exit code, EX_TEMPFAIL: nothing is wrong, and the same command resumes
GOES_ON = "the same command goes on from where it is"
ANEW = "the same command begins anew"  # for commands that take only a minute


def catch_signals(advice: str = GOES_ON) -> None:
    """Makes a signal end this process with code 75, as there is nothing to save yet.

    Args:
      advice: the end of the line that the process prints then.
    """

    stderr = STDERR
    with contextlib.suppress(OSError):  # if it is closed
        stderr = os.dup(STDERR)  # because modules may redirect it while they are imported

    def end(number: int, frame: FrameType | None) -> NoReturn:
        """Handles a signal; nothing is cleaned up, as a module may be half imported."""
        try:
            os.write(stderr, f"stopped: {signal.Signals(number).name}: {advice}\n".encode())
        finally:
            os._exit(GO_ON)

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
