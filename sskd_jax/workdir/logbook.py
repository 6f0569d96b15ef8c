"""What a run leaves on disk besides its checkpoints: config, environments, metrics, times and TensorBoard files."""

import contextlib
import fcntl
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

import jax
from etils import epath

from sskd_jax.system.paths import is_remote, stage_folders, write_bytes
from sskd_jax.system.quiet import import_tensorflow
from sskd_jax.types import UserError

Row = dict[str, Any]
LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow-datasets",
    "clu",
)
METRICS, TIMES = "metrics.jsonl", "times.jsonl"  # a row per epoch; a row per checkpoint
HARMLESS = (
    "time_limit",
    "save_seconds",
    "data.data_dir",
    "paper.",
    "methods",
)  # how keys begin that may change


def environment(devices: Sequence[jax.Device]) -> Row:
    """Versions, devices and the git revision: what a figure needs beside it to be believed."""
    installed = {
        dist.metadata["Name"].lower(): dist.version for dist in importlib.metadata.distributions()
    }
    return {
        "python": platform.python_version(),
        "versions": {name: installed.get(name) for name in LIBRARIES},
        "processor": processor(),
        "platform": devices[0].platform,
        "devices": [device.device_kind for device in devices],
        "cores": os.cpu_count(),
        "git_revision": git_revision(),
        "command": sys.orig_argv[1:],
    }


def processor() -> str:
    """The name of this machine's, where it is known."""
    with contextlib.suppress(OSError):
        found = re.search(
            r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
        return found[1] if found else platform.processor()
    return platform.processor()


def git_revision() -> str | None:
    """Of this code; None where it is no clone, or where git is not installed."""
    command = [
        "git",
        "-C",
        str(pathlib.Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
    ]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def flatten(tree: Row, prefix: str = "") -> Row:
    """{"a": {"b": 1}} -> {"a.b": 1}, as the keys are typed on the command line."""
    flat = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def write_json(path: epath.Path, content: Any) -> None:
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


class Logbook:
    """The files of one workdir, which belongs to this process until the `with` ends.

    Raises:
      UserError: the workdir can't be written, is in use, or belongs to a run with another config.
    """

    def __init__(self, workdir: epath.Path, config: Row, devices: Sequence[jax.Device]):
        self.workdir, self.tensorboard = workdir, None
        self.clock = time.monotonic()
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            self.lock = lock(workdir)
            write_json(workdir / "config.json", self.agreed(json.loads(json.dumps(config))))
            self.environment = self.known(environment(devices))
        except OSError as error:
            raise UserError(f"cannot write to --workdir={workdir}: {error.strerror}") from error

    def agreed(self, config: Row) -> Row:
        """The config to keep: this one, and the settings of methods that were compared here before."""
        file = self.workdir / "config.json"
        if not file.exists() or not any(stage_folders(self.workdir)):  # nothing was trained yet
            return config
        kept = read_json(file)
        earlier, now = (content.get("settings", {}) for content in (kept, config))
        old, new = (
            flatten(
                content
                | {"settings": {name: settings[name] for name in earlier.keys() & now.keys()}}
            )
            for content, settings in ((kept, earlier), (config, now))
        )
        keys = [
            key
            for key in sorted(old | new)
            if old.get(key) != new.get(key) and not key.startswith(HARMLESS)
        ]
        if keys:
            changed = "; ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in keys)
            raise UserError(
                f"{self.workdir} holds a run with another config ({changed}): "
                "give the old values, or another --workdir"
            )
        return config | ({"settings": earlier | now} if earlier else {})

    def known(self, here: Row) -> int:
        """The place of this environment in environments.json, which has all that the run was in."""
        file = self.workdir / "environments.json"
        known = read_json(file) if file.exists() else []
        if here not in known:
            write_json(file, known := [*known, here])
        return known.index(here)

    def rows(self, name: str = METRICS) -> list[Row]:
        """Everything that a file of rows holds so far."""
        file = self.workdir / name
        return read_rows(file) if file.exists() else []

    def rewind(self, stage: str, step: int) -> None:
        """Forgets the rows that a stage wrote after the `step` that it goes on from: it writes them again.

        Its time runs from here.
        """
        for name in (METRICS, TIMES):
            self.write_rows(
                name,
                [row for row in self.rows(name) if row["stage"] != stage or row["step"] <= step],
            )
        self.clock = time.monotonic()

    def write_rows(self, name: str, rows: list[Row]) -> None:
        write_bytes(self.workdir / name, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def saved(self, stage: str, step: int) -> None:
        """Writes down what it took to come to the checkpoint of a step from the one before, or from the start."""
        began, self.clock = self.clock, time.monotonic()
        row = {
            "stage": stage,
            "step": step,
            "seconds": round(self.clock - began, 3),
            "environment": self.environment,
        }
        self.write_rows(TIMES, [*self.rows(TIMES), row])

    def write(self, row: Row) -> None:
        self.write_rows(METRICS, [*self.rows(), row])
        if self.tensorboard is None:
            self.tensorboard = summary_writer(self.workdir / "tensorboard")
        if self.tensorboard:
            scalars = {
                f"{row['stage']}/{name}": value
                for name, value in row.items()
                if isinstance(value, float)
            }
            self.tensorboard.write_scalars(row["step"], scalars)

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, *_: object) -> None:
        if self.tensorboard:
            self.tensorboard.close()
        self.lock.close()


class NoLogbook:
    """The logbook of the processes that write nothing."""

    def rewind(self, stage: str, step: int) -> None:
        pass

    def write(self, row: Row) -> None:
        pass

    def saved(self, stage: str, step: int) -> None:
        pass

    def __enter__(self) -> "NoLogbook":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def lock(workdir: epath.Path) -> IO[str]:
    """A file that keeps other processes out of the workdir while it is open; the system closes it if this one dies.

    A bucket knows no such thing.
    """
    if is_remote(workdir):
        return open(os.devnull)
    file = open(workdir / ".lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another process trains in --workdir={workdir}: wait for it, or give another one"
        ) from error
    except OSError:  # a file system without locks
        pass
    return file


def read_rows(path: epath.Path) -> list[Row]:
    """The rows of a .jsonl file; a last line that was cut short is none."""
    try:
        return [
            json.loads(line)
            for line in path.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): mend or delete it, the checkpoints are kept"
        ) from error


def minutes(times: list[Row], stage: str, step: float = math.inf) -> float:
    """How long a stage was trained up to a step, in all starts together, with compilation and evaluations."""
    return (
        sum(row["seconds"] for row in times if row["stage"] == stage and row["step"] <= step) / 60
    )


def read_json(path: epath.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): put a copy of it back, or delete its folder"
        ) from error


def summary_writer(folder: epath.Path) -> Any:
    """clu's TensorBoard writer, or False where TensorFlow, which it needs, is not installed."""
    try:
        import_tensorflow()
        from clu.metric_writers import SummaryWriter
    except ImportError:
        return False
    return SummaryWriter(str(folder))
