"""Unpickling that runs nothing of what a file asks for, beyond the few names its reader allows."""

import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from sskd_jax.types import UserError

Allowed = Mapping[tuple[str, str], Any]


class _Unpickler(
    pickle._Unpickler
):  # the Python one: the C one lets four bytes ask for a memo of 64 GB
    """Resolves the names in `allowed`, and can neither change what they stand for nor reserve memory up front."""

    # BYTEARRAY8 fills as many bytes as it announces before it reads the first; the readers here never need it.
    dispatch = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

    def __init__(
        self, file: BinaryIO, allowed: Allowed, encoding: str, persistent_load: Callable | None
    ):
        super().__init__(file, encoding=encoding)
        self.file, self.allowed = file, allowed
        if persistent_load is not None:
            self.persistent_load = persistent_load

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            text = f"{module}.{name}"[:200]
            raise UserError(
                f"{_name(self.file)} asks for {text!r}, which could run code, so nothing of it was run"
            )
        return self.allowed[module, name]

    def load_build(self) -> None:
        """Sets attributes of an object, but not of an allowed class or function: those outlive this file."""
        if callable(self.stack[-2]):
            raise pickle.UnpicklingError("it sets attributes of a class or function")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def _name(file: BinaryIO) -> str:
    return str(getattr(file, "name", "the file"))


def load(
    file: BinaryIO,
    allowed: Allowed,
    encoding: str = "ASCII",
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """The next pickled object of a file, of which nothing is trusted.

    Args:
      file: an open binary file; its `name` is shown in errors.
      allowed: (module, name) -> what stands for it. The pickle may call these with any arguments, so they must be
        harmless with all of them: prefer inert stand-ins to the real thing.
      encoding: how the byte strings of Python 2 become `str`; "bytes" leaves them alone.
      persistent_load: persistent id -> object, as in `pickle.Unpickler`.

    Raises:
      UserError: the pickle is broken, or names something that is not allowed.
    """
    try:
        return _Unpickler(file, allowed, encoding, persistent_load).load()
    except UserError:
        raise
    except (
        Exception
    ) as error:  # whatever hostile bytes can provoke; what they can call is in `allowed`
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise UserError(f"{_name(file)} is not a readable pickle: {reason}") from error
