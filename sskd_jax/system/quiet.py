"""Silences libraries, and keeps TensorFlow from taking the GPU memory that JAX needs."""

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator

from sskd_jax.types import UserError


class Missing(UserError, ImportError):
    """A library that only some commands need is not installed."""

    def __init__(self, library: str):
        super().__init__(f"this needs {library}, which is not installed: pip install {library}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context that silences stdout, and what C++ writes to file descriptor 2.

    `sys.stderr` still works, so that our progress bars and error lines are shown.
    """
    with open(os.devnull, "w") as nowhere, os.fdopen(os.dup(2), "w") as stderr:
        os.dup2(nowhere.fileno(), 2)  # C++'s output is discarded; `stderr` is a copy of the old 2
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(stderr):
                yield
        finally:
            os.dup2(stderr.fileno(), 2)


def import_tensorflow() -> None:
    """Imports TensorFlow and hides the GPU from it.

    Raises:
      Missing: it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        try:
            import tensorflow as tf
        except ImportError as error:
            raise Missing("tensorflow") from error

        tf.config.set_visible_devices([], "GPU")


@functools.cache  # a second call would wrap the hook once more
def silence_checkpoint_errors() -> None:
    """Silences what orbax and tensorstore log about errors that they also raise."""
    show = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        # Raised by transfers that continue after another one has failed.
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = hook
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
