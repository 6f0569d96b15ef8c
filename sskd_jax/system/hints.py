"""Suggests what to type instead of an unknown flag or config key."""

import contextlib
import difflib
import functools
import operator
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from sskd_jax.system.installed import read_config
from sskd_jax.types import UserError

ELSEWHERE = {  # other programs' names of these keys
    "arch": "model",
    "batch": "batch_size",
    "bs": "batch_size",
    "lr": "learning_rate",
    "lr_decay": "decay",
    "network": "model",
    "wd": "weight_decay",
}
# The sections whose keys are most likely meant, in order.
FIRST = ("student", "teacher", "head")
SHOWN = 3  # how many further sections with the key are shown
LISTS = "python -m sskd_jax list keys has those of all runs, list methods a method's"
# What to give for a key, by the type of the value that it has.
KINDS = {bool: "True or False", int: "a whole number, such as {}", float: "a number, such as {}"}


def config_of(argv: Sequence[str]) -> Mapping[str, Any]:
    """The config that --config=PATH or --config=PATH:ARGUMENTS names; empty if it can't be loaded.

    ml_collections gives no config if one of the flags does not suit it.
    """
    for argument in argv:
        flag, _, value = argument.partition("=")
        with contextlib.suppress(Exception):  # a config file may raise anything
            if flag == "--config":
                return read_config(value)
    return {}


def as_argument(argv: Sequence[str], name: str, value: str) -> str:
    """What to type for a flag that is an argument of the config file, such as --method; or ""."""
    for argument in argv:
        flag, _, file = argument.partition("=")
        if flag == "--config":
            before = f"{file}{',' if ':' in file else ':'}"
            asked = f"{before}{name}={value}"
            # A file that takes any argument says nothing about this one.
            is_taken = is_config(asked) and not is_config(f"{before}not_{name}={value}")
            return f": type --config={asked}" if is_taken else ""
    return ""


def is_config(argument: str) -> bool:
    """Whether a config file can be loaded with these arguments: PATH:ARGUMENTS."""
    with contextlib.suppress(Exception):  # a config file may raise anything
        return bool(read_config(argument))
    return False


def keys_below(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the keys of a config with dots between their parts, such as "student.epochs"."""
    for key, value in config.items():
        if isinstance(value, Mapping) or hasattr(value, "to_dict"):
            yield from keys_below(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def likely_keys(config: Mapping[str, Any], name: str) -> list[str]:
    """The keys that a user who types `name` probably means, the likeliest first."""
    *sections, last = name.replace("-", "_").split(".")
    if not sections and last in config and "model" in getattr(config[last], "keys", tuple)():
        return [f"{last}.model"]
    keys = list(keys_below(config))
    names = sorted({key.rpartition(".")[2] for key in keys})
    last = ELSEWHERE.get(last, last)
    if last not in names:
        last = next(iter(difflib.get_close_matches(last, names, n=1, cutoff=0.75)), "")
    found = [key for key in keys if key.rpartition(".")[2] == last]
    within = [key for key in found if set(sections) & set(key.split("."))]
    trained = [f"settings.{method}" for method in config.get("methods", ())]

    def place(key: str) -> int:
        order = [*FIRST, *trained]
        return next((i for i, part in enumerate(order) if key.startswith(f"{part}.")), len(order))

    return sorted(within or found, key=place)


def what_to_type(config: Mapping[str, Any], name: str, value: str) -> str:
    """The end of an error line: the key that is probably meant, or the command that lists all keys.

    For example ": type --config.student.epochs=2 (or of teacher, head in place of student)".
    """
    first, *others = [*likely_keys(config, name), ""]
    if not first:
        return f": write --config.SECTION.KEY=VALUE; {LISTS}"
    section, _, key = first.rpartition(".")
    alike = [other.removesuffix(f".{key}") for other in others if other.endswith(f".{key}")]
    alike = [other for other in alike if section and "." not in other]
    more = f" (or of {', '.join(alike[:SHOWN])} in place of {section})" if alike else ""
    return f": type --config.{first}={value}{more}"


def typed(argv: Sequence[str], name: str) -> tuple[str, str]:
    """(full name, value) of the flag on a command line whose name contains `name`.

    Of several flags, it takes the first that is not a key of the config.
    """
    found, known = [], set(keys_below(config_of(argv)))
    for argument, following in zip(argv, [*argv[1:], "-"], strict=True):
        flag, _, value = argument.lstrip("-").partition("=")
        if f".{name}." in f".{flag}.":
            beside = "VALUE" if following.startswith("-") else following
            found.append((flag.removeprefix("config."), value or beside))
    return next((one for one in found if one[0] not in known), (found or [(name, "VALUE")])[0])


def of_another_type(error: flags.IllegalFlagValueError, argv: Sequence[str]) -> str:
    """The error for a value that config_flags could not read: what the key takes instead."""
    flag = str(error).removeprefix("flag ").removesuffix(f": {error.__context__}")
    key = flag.partition("=")[0].removeprefix("--config.")
    value = None
    with contextlib.suppress(KeyError):  # not a key of the config, or the config can't be loaded
        value = functools.reduce(operator.getitem, key.split("."), config_of(argv))
    if type(value) in KINDS:
        return f"{flag}: give {KINDS[type(value)].format(value)}"
    if hasattr(value, "keys"):
        return f"{flag}: {key} is a section, write --config.{key}.KEY=VALUE; {LISTS}"
    return str(error)


def in_brackets(argv: Sequence[str]) -> str:
    """What to type for the first key with a name such as at+kd, which is no plain word; or ""."""
    for argument in argv:
        flag, _, value = argument.lstrip("-").partition("=")
        if flag.startswith("config.") and "+" in flag and "'" not in flag:
            parts = [f"['{part}']" if "+" in part else f".{part}" for part in flag.split(".")]
            return f'"--{"".join(parts).lstrip(".")}={value}"'
    return ""


def reason(error: BaseException, argv: Sequence[str]) -> str:
    """The user's mistake in words; config_flags wraps it in further errors.

    Args:
      error: what the flags or the config file raised.
      argv: the command line.
    """
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    for cause in reversed(causes):
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, OSError):  # for a config file, whose path is in the last line
            return str(cause).splitlines()[-1]
        if isinstance(cause, AttributeError) and cause.name == "get_config":
            return "the config file has no function get_config: configs/quickstart.py shows one"
        for frame in traceback.extract_tb(cause.__traceback__):
            if frame.name in ("get_config", "<module>"):
                return f"{frame.filename}, line {frame.lineno}: {type(cause).__name__}: {cause}"
    # ml_collections passes the first error to the second as an argument.
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    if isinstance(error, flags.IllegalFlagValueError):
        return of_another_type(error, argv)
    if isinstance(error, KeyError):
        name, value = typed(argv, str(error.args[0]).split("'")[1])
        return f"unknown config key {name!r}{what_to_type(config_of(argv), name, value)}"
    if bracketed := in_brackets(argv):
        return f"a name with + stands in brackets: type {bracketed}"
    text, flag = str(error), getattr(error, "flagname", None)  # set by absl for an unknown flag
    likely = flag and likely_keys(config_of(argv), flag)
    if flag and (likely or "did you mean" not in text.lower()):
        name, value = typed(argv, flag)
        advice = as_argument(argv, flag, value) or what_to_type(config_of(argv), name, value)
        return f"unknown flag {flag!r}{advice}"
    return text
