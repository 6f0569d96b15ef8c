"""Libraries without their chatter, and TensorFlow without the GPU memory that it would take from JAX."""

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what Python prints and what C++ writes to descriptor 2; whoever kept `sys.stderr` goes on with it."""
    with open(os.devnull, "w") as nowhere, os.fdopen(os.dup(2), "w") as stderr:
        os.dup2(nowhere.fileno(), 2)
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(stderr):
                yield
        finally:
            os.dup2(stderr.fileno(), 2)


def import_tensorflow() -> None:
    """Imports TensorFlow and hides the GPU from it.

    Raises:
      ImportError: it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")


@functools.cache  # a second call would wrap the hook once more
def silence_checkpoint_errors() -> None:
    """What orbax and tensorstore tell about errors that they also raise."""
    show = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if (
            str(unraisable.exc_value) != "Event loop is closed"
        ):  # of transfers that went on when another one failed
            show(unraisable)

    sys.unraisablehook = hook
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
