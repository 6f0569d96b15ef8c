"""The record of a run in its workdir: config, environments, metrics, times, TensorBoard files."""

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import IO, Any

import jax
from etils import epath
from flax.traverse_util import flatten_dict

from sskd_jax.system.console import console
from sskd_jax.system.paths import check_no_pattern, check_same, is_remote, locate, take_lock
from sskd_jax.types import UserError
from sskd_jax.workdir.checkpoint import has_checkpoints
from sskd_jax.workdir.environment import UNKNOWN, changed_code, changed_versions, environment
from sskd_jax.workdir.files import (
    CONFIG,
    ENVIRONMENTS,
    METRICS,
    TIMES,
    Row,
    existing_rows,
    read_json,
    write_json,
    write_rows,
)
from sskd_jax.workdir.stages import stage_folders
from sskd_jax.workdir.tensorboard import Charts

LOCK = ".lock"
TENSORBOARD = "tensorboard"  # the folder of its files

# Prefixes of the config keys that may change between two starts of a run.
HARMLESS = ("seeds", "time_limit", "until", "save_seconds", "data.data_dir", "paper.", "methods")
PATHS = (".checkpoint", ".start_from")  # ends of the keys that name a workdir or a file

flatten = partial(flatten_dict, sep=".")  # {"a": {"b": 1}} -> {"a.b": 1}: keys as they are typed


def as_stored(config: Mapping[str, Any]) -> Row:
    """A config as it is read from its JSON file: with lists for tuples."""
    return json.loads(json.dumps(config))


def shared_parts(config: Row, other: Row) -> Row:
    """The part of a comparison's config that `other` has, too.

    It lacks sections that are not in `other`, and settings of methods that not both compare. If one
    of the two is not a comparison of methods, it is the whole config.
    """
    if "settings" not in config or "settings" not in other:
        return config
    shared = {
        key: value for key, value in config.items() if key in other or not isinstance(value, dict)
    }
    names = set(config["methods"]) & set(other["methods"])
    return shared | {"settings": {name: config["settings"][name] for name in names}}


def united(stored: Row, config: Row) -> Row:
    """A comparison's config, extended by the methods, sections and settings of the stored one."""
    if "settings" not in config:
        return config
    missing = {key: value for key, value in stored.items() if key not in config}
    # A config may have settings of methods that it does not compare, such as the quickstart's.
    compared = {name: config["settings"][name] for name in config["methods"]}
    both = {
        "settings": config["settings"] | stored["settings"] | compared,
        "methods": list(dict.fromkeys([*stored["methods"], *config["methods"]])),
    }
    return config | missing | both


def differences(stored: Row, config: Row) -> list[str]:
    """What differs between two configs of a workdir, in words, except for `HARMLESS` keys.

    Methods that only one of the two has, and the sections of their stages, are ignored. A dtype may
    be named that was "auto" before, to keep it on another device; `tell_changes` tells another one.
    """
    parts = shared_parts(stored, config), shared_parts(config, stored)
    old, new = map(flatten, parts)
    return [
        f"{key} was {old.get(key)}, is {new.get(key)}"
        for key in sorted(old | new)
        if not is_same(key, old.get(key), new.get(key))
        and (old.get(key) or new.get(key))  # a key that one of them lacks may be empty in the other
        and not key.startswith(HARMLESS)
        and not (key == "dtype" and old.get(key) == "auto")
    ]


def is_same(key: str, old: Any, new: Any) -> bool:
    """Whether two values of a config key are the same: of paths, the places that they name."""
    is_path = key.endswith(PATHS) and old and new
    return old == new or is_path and locate(old) == locate(new)


def begun(workdir: epath.Path) -> Row | None:
    """The config of the run in a workdir; None if it has no checkpoint yet."""
    saved = any(map(has_checkpoints, stage_folders(workdir)))
    return read_json(workdir / CONFIG) if saved and (workdir / CONFIG).exists() else None


def check_config(workdir: epath.Path, stored: Row, config: Row) -> None:
    """Raises a `UserError` if the config of a workdir's run differs in more than `HARMLESS` keys.

    Args:
      workdir: of the run.
      stored: the config that `begun` returns.
      config: of the run that is to go on there, with lists for tuples, as in JSON.
    """
    if ("settings" in stored) != ("settings" in config):
        what = "a comparison of methods" if "settings" in stored else "the run of one method alone"
        raise UserError(
            f"{workdir} holds {what}, to which no other can be added like this: give another "
            f"--workdir, and --config.teacher.checkpoint={workdir} to take its teacher along"
        )
    if changed := differences(stored, config):
        raise UserError(
            f"{workdir} holds a run with another config ({'; '.join(changed)}): "
            "give the old values, or another --workdir"
        )


def tell_changes(before: Row, here: Row) -> None:
    """Prints a line for what makes a resumed run another one than it was.

    It may be resumed in another dtype, on devices of another kind, or another number of them, with
    other versions or another processor, or with changed code of the user's.
    """
    dtype, now = before.get("dtype", here["dtype"]), here["dtype"]  # earlier versions stored none
    kinds = ["{platform} ({devices[0]})".format_map(where) for where in (here, before)]
    counts = [len(where["devices"]) for where in (here, before)]
    if now != dtype:
        console.print(
            f"dtype  {now} on {kinds[0]} in place of {dtype} on {kinds[1]} before: from here on "
            f"the run is another one; --config.dtype={dtype} keeps to what it was"
        )
    elif kinds[0] != kinds[1] or counts[0] != counts[1]:
        found = kinds if kinds[0] != kinds[1] else counts
        console.print(
            f"devices  {found[0]} in place of {found[1]} before: from here on the run is the "
            "same up to rounding, not bit for bit"
        )
    elif others := changed_versions(before, here):
        console.print(
            f"versions  {'; '.join(others)}: from here on the run is the same up to rounding, not "
            "bit for bit"
        )
    if changed := changed_code(before, here):
        console.print(
            f"code  {', '.join(changed)} changed since this run began: from here on it may be "
            "another one; give another --workdir to train it anew"
        )


class Logbook:
    """The files of one workdir, which belongs to this process until the `with` ends.

    Attributes:
      environment: the index in environments.json of the environment of this process.

    Raises:
      UserError: the workdir can't be written, is in use, or belongs to a run with another config;
        later, at every write, the workdir was deleted or belongs to another run.
    """

    def __init__(self, workdir: epath.Path, config: Row, devices: Sequence[jax.Device]):
        self.workdir, self.charts = workdir, Charts(workdir / TENSORBOARD)
        self.clock = time.monotonic()  # of the last checkpoint, or of the start
        check_no_pattern(workdir)
        with contextlib.ExitStack() as on_failure:
            try:
                workdir.mkdir(parents=True, exist_ok=True)
                self.lock = on_failure.enter_context(lock(workdir))
                check_folder(workdir / TENSORBOARD)
                write_json(workdir / CONFIG, self.merged_config(as_stored(config)))
                self.environment = self.environment_index(environment(devices, config))
            except OSError as error:
                reason = error.strerror or error  # a bucket's has no `strerror`
                raise UserError(f"cannot write to --workdir={workdir}: {reason}") from error
            on_failure.pop_all()

    def check_owner(self) -> None:
        """Checks that the workdir is still the one that this process has locked.

        Raises:
          UserError: it was deleted meanwhile, and another run may have begun in its place.
        """
        if not is_remote(self.workdir):
            check_same(self.lock.fileno(), self.workdir / LOCK, self.workdir)

    def merged_config(self, config: Row) -> Row:
        """The config to store: this run's, with the settings of methods that were compared before.

        Raises:
          UserError: the workdir holds a run whose config differs in more than `HARMLESS` keys.
        """
        stored = begun(self.workdir)
        if stored is None:
            return config
        check_config(self.workdir, stored, config)
        return united(stored, config)

    def environment_index(self, here: Row) -> int:
        """The index of an environment in environments.json, to which a new one is added."""
        file, places = self.workdir / ENVIRONMENTS, self.places()
        environments = read_json(file) if file.exists() else []
        environments += [UNKNOWN] * (max(places, default=-1) + 1 - len(environments))
        if here not in environments:
            write_json(file, [*environments, here])
            environments.append(here)
        if places and environments[places[-1]] != UNKNOWN:
            tell_changes(environments[places[-1]], here)
        return environments.index(here)

    def places(self) -> list[int]:
        """The indices into environments.json in times.jsonl, the newest last."""
        return [row["environment"] for row in self.rows(TIMES)]

    def rows(self, name: str = METRICS) -> list[Row]:
        """All rows of a .jsonl file so far."""
        return existing_rows(self.workdir / name)

    def rewind(self, stage: str, step: int) -> None:
        """Begins or resumes a stage: deletes its rows after `step`, and restarts the clock.

        The steps after the checkpoint are trained again, and their rows are written again.
        """
        for name in (METRICS, TIMES):
            remaining = [
                row for row in self.rows(name) if row["stage"] != stage or row["step"] <= step
            ]
            self.write_rows(name, remaining)
        self.charts.close()
        self.clock = time.monotonic()

    def tell_missing(self, stage: str, step: int, epochs: int) -> None:
        """Prints a line if a stage, which has reached `step`, lacks rows of finished epochs."""
        missing = epochs - sum(row["stage"] == stage and row["step"] <= step for row in self.rows())
        if missing > 0:
            console.print(
                f"{stage}  {METRICS} lacks {missing} of {epochs} epochs: they are in no curve"
            )

    def is_best(self, stage: str, step: int) -> bool:
        """Whether no epoch of a stage was better than the one that ended with a step.

        It is also true if there is no row or no score to compare.
        """
        rows = [row for row in self.rows() if row["stage"] == stage]
        name = first_score(rows[0]) if rows else None
        scores = {row["step"]: row[name] for row in rows if name in row}
        return step not in scores or not any(score > scores[step] for score in scores.values())

    def write_rows(self, name: str, rows: list[Row]) -> None:
        """Replaces the rows of a .jsonl file atomically, if the workdir is still this process's."""
        self.check_owner()
        write_rows(self.workdir / name, rows)

    def saved(self, stage: str, step: int) -> None:
        """Writes the seconds between the last checkpoint, or the start, and that of `step`."""
        began, self.clock = self.clock, time.monotonic()
        row = {
            "stage": stage,
            "step": step,
            "seconds": round(self.clock - began, 3),
            "environment": self.environment,
        }
        self.write_rows(TIMES, [*self.rows(TIMES), row])

    def write(self, row: Row) -> None:
        """Writes the row of an epoch, with "stage", "step" and figures by name.

        It is inserted after the other rows of its stage, even if later stages have rows already.
        """
        rows = self.rows()
        own = [place for place, other in enumerate(rows, 1) if other["stage"] == row["stage"]]
        rows.insert(max(own, default=len(rows)), row)
        self.write_rows(METRICS, rows)
        self.charts.write([other for other in rows if other["stage"] == row["stage"]])

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, *_: object) -> None:
        self.charts.close()
        self.lock.close()


class NoLogbook:
    """A logbook that writes nothing, for all processes of a run except the chief."""

    def rewind(self, stage: str, step: int) -> None:
        pass

    def write(self, row: Row) -> None:
        pass

    def saved(self, stage: str, step: int) -> None:
        pass

    def tell_missing(self, stage: str, step: int, epochs: int) -> None:
        pass

    def is_best(self, stage: str, step: int) -> bool:
        return True

    def __enter__(self) -> "NoLogbook":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def lock(workdir: epath.Path) -> IO[str]:
    """An open file that keeps other processes out of a workdir until it is closed.

    The system closes it when this process dies. Buckets and some file systems have no locks;
    there, no process is kept out.

    Raises:
      UserError: another process holds the workdir.
    """
    if is_remote(workdir):
        return open(os.devnull)
    file = open(workdir / LOCK, "w")
    if not take_lock(file):
        file.close()
        raise UserError(
            f"another process trains in --workdir={workdir}: wait for it, or give another one"
        )
    return file


def check_folder(path: epath.Path) -> None:
    """Raises a `UserError` if there is a file where a folder should be."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file where a folder should be: rename or delete it")


def first_score(row: Row) -> str | None:
    """The name of the first held-out score in an epoch's row, by which epochs are compared."""
    scores = (name for name in row if "/" in name and not name.startswith("train/"))
    return next(scores, None)


def minutes(times: list[Row], stage: str) -> float:
    """The minutes for which a stage was trained, over all starts of the run.

    Compilation, evaluations and checkpoints are included.
    """
    return sum(row["seconds"] for row in times if row["stage"] == stage) / 60
