"""Unpickling that calls nothing but the few names that the reader of a file allows."""

import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from sskd_jax.types import UserError

Allowed = Mapping[tuple[str, str], Any]

KEYS = (str, bytes, int, float, bool, type(None))  # types of keys whose hash is fast to compute
ARGUMENTS = 4_000_000  # the most in all calls together, with the items of lists, tuples and dicts


def checked(key: Any) -> Any:
    """The key, if it is of one of the types `KEYS` and, if an int, has at most 64 bits.

    The hash of a tuple is computed from all that it contains. For 40 nested tuples, each of which
    contains the one before twice, that takes forever; for a million levels, it crashes.

    Raises:
      UnpicklingError: it is anything else.
    """
    if type(key) not in KEYS or (type(key) is int and key.bit_length() > 64):
        kind = "a huge number" if type(key) is int else f"of type {type(key).__name__}"
        raise pickle.UnpicklingError(
            f"a key in it is {kind}, not text or a small number: save the file without it"
        )
    return key


class Dict(dict):
    """A dictionary whose keys are `checked`."""

    __slots__ = ()

    def __init__(self, items: Any = ()):
        for key, value in items.items() if isinstance(items, dict) else items:
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(checked(key), value)


class Forbidden(UserError):
    """A pickle names something that is not allowed."""


# Based on the unpickler in Python: with the one in C, four bytes can request a memo of 64 GB.
class _Unpickler(pickle._Unpickler):
    """An unpickler that knows only the names in `allowed`.

    A pickle can't change the objects behind these names, nor reserve more memory than it has bytes.
    Nor can it take long: the work of every opcode is proportional to its bytes. Only calls could do
    more, as many calls can get the same large list; so their arguments are counted.
    """

    # BYTEARRAY8 allocates as many bytes as it announces before it reads the first one. No file that
    # is read here needs it.
    dispatch = {**pickle._Unpickler.dispatch}
    del dispatch[pickle.BYTEARRAY8[0]]

    def __init__(
        self, file: BinaryIO, allowed: Allowed, encoding: str, persistent_load: Callable | None
    ):
        super().__init__(file, encoding=encoding)
        self.file, self.allowed, self.arguments = file, allowed, 0
        self.memo = Dict()
        if persistent_load is not None:
            self.persistent_load = persistent_load

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            text = f"{module}.{name}"[:200]
            raise Forbidden(
                f"{_name(self.file)} asks for {text!r}, which could run code, so nothing of it was "
                "run"
            )
        return self.allowed[module, name]

    def load_build(self) -> None:
        """Sets attributes of an object, but not of a class or function, as these would persist."""
        if callable(self.stack[-2]):
            raise pickle.UnpicklingError("it sets attributes of a class or function")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def load_empty_dictionary(self) -> None:
        self.append(Dict())

    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dictionary

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(Dict(zip(items[::2], items[1::2], strict=True)))

    dispatch[pickle.DICT[0]] = load_dict

    def load_additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise pickle.UnpicklingError("it adds to what is no set")
        self.stack[-1].update(map(checked, items))

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        self.append(frozenset(map(checked, self.pop_mark())))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_reduce(self) -> None:
        self.count(self.stack[-1])
        super().load_reduce()

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        self.count(self.stack[-1])
        super().load_newobj()

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        self.count(self.stack[-2])
        self.count([self.stack[-1]])
        super().load_newobj_ex()

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def _instantiate(self, klass: Any, args: list[Any]) -> None:
        self.count(args)
        super()._instantiate(klass, args)

    def count(self, args: Any) -> None:
        """Counts the arguments of a call, and raises an error if there are too many in total."""
        if not isinstance(args, (tuple, list)):
            raise pickle.UnpicklingError("the arguments of a call are no tuple")
        self.arguments += len(args)
        if self.arguments <= ARGUMENTS:
            self.arguments += sum(len(x) for x in args if isinstance(x, (tuple, list, dict)))
        if self.arguments > ARGUMENTS:
            raise pickle.UnpicklingError("its calls are given more than any checkpoint needs")


def is_endless(path: str | os.PathLike[str]) -> bool:
    """Whether it is a pipe or a device: neither a file nor a folder, and perhaps endless."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _name(file: BinaryIO) -> str:
    """The path of an open file, or "the file" if it has none."""
    return str(getattr(file, "name", "the file"))


def load(
    file: BinaryIO,
    allowed: Allowed,
    encoding: str = "ASCII",
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads the next pickled object of an untrusted file.

    Args:
      file: an open binary file; its `name` is shown in errors.
      allowed: (module, name) -> the object to use for it. The pickle may call these with any
        arguments, so they must be harmless with all: prefer inert replacements to the real objects.
      encoding: how the byte strings of Python 2 become `str`; "bytes" leaves them alone.
      persistent_load: persistent id -> object, as in `pickle.Unpickler`.

    Raises:
      UserError: the pickle is broken, or names something that is not allowed.
    """
    try:
        return _Unpickler(file, allowed, encoding, persistent_load).load()
    except UserError:
        raise
    except Exception as error:  # any, as hostile bytes may call what is in `allowed` as they like
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise UserError(f"{_name(file)} is not a readable pickle: {reason}") from error
