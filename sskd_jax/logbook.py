"""What a run leaves on disk besides its checkpoints: config.json, env.json, metrics.jsonl and TensorBoard files."""
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

from sskd_jax.quiet import import_tensorflow
from sskd_jax.types import UserError

Row = dict[str, Any]
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets", "clu")


def environment(devices: list[jax.Device]) -> Row:
    """Versions, devices and the git revision: what a figure needs beside it to be believed."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    revision = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    installed = {dist.metadata["Name"].lower(): dist.version for dist in importlib.metadata.distributions()}
    return {
        "python": platform.python_version(),
        "versions": {name: installed.get(name) for name in LIBRARIES},
        "platform": devices[0].platform,
        "devices": [device.device_kind for device in devices],
        "cores": os.cpu_count(),
        "git_revision": revision or None,
        "command": sys.argv,
    }


def flatten(tree: Row, prefix: str = "") -> Row:
    """{"a": {"b": 1}} -> {"a.b": 1}, as the keys are typed on the command line."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


class Logbook:
    """The files of one workdir.

    Raises:
      UserError: the workdir can't be written, or belongs to a run with another config.
    """

    def __init__(self, workdir: pathlib.Path, config: Row, devices: list[jax.Device]):
        self.workdir = workdir
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            self.check_config(json.loads(json.dumps(config)))
            self.write_json("config.json", config)
            self.write_json("env.json", environment(devices))
        except OSError as error:
            raise UserError(f"cannot write to --workdir={workdir}: {error.strerror}") from error
        self.tensorboard = None

    def write_json(self, name: str, content: Any) -> None:
        """Replaces the file in one go, so that it is never seen half written."""
        part = self.workdir / f".{name}.part"
        part.write_text(json.dumps(content, indent=2) + "\n")
        part.replace(self.workdir / name)

    def check_config(self, config: Row) -> None:
        file = self.workdir / "config.json"
        if not file.exists() or not any(self.workdir.glob("**/stage.json")):  # nothing was trained yet
            return
        old, new = flatten(json.loads(file.read_text())), flatten(config)
        keys = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
        if keys:
            changed = "; ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in keys)
            raise UserError(f"{self.workdir} holds a run with another config ({changed}): "
                            "give the old values, or another --workdir")

    def rows(self) -> list[Row]:
        """Everything logged so far, a row per epoch."""
        file = self.workdir / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def rewind(self, stage: str, step: int) -> None:
        """Forgets the rows that a stage wrote after the `step` that it goes on from: it writes them again."""
        kept = [row for row in self.rows() if row["stage"] != stage or row["step"] <= step]
        part = self.workdir / ".metrics.jsonl.part"
        part.write_text("".join(json.dumps(row) + "\n" for row in kept))
        part.replace(self.workdir / "metrics.jsonl")

    def write(self, row: Row) -> None:
        with (self.workdir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.tensorboard is None:
            self.tensorboard = summary_writer(self.workdir / "tensorboard")
        if self.tensorboard:
            scalars = {f"{row['stage']}/{name}": value for name, value in row.items() if isinstance(value, float)}
            self.tensorboard.write_scalars(row["step"], scalars)

    def close(self) -> None:
        if self.tensorboard:
            self.tensorboard.close()


def summary_writer(folder: pathlib.Path) -> Any:
    """clu's TensorBoard writer, or False where TensorFlow, which it needs, is not installed."""
    try:
        import_tensorflow()
        from clu.metric_writers import SummaryWriter
    except ImportError:
        return False
    return SummaryWriter(str(folder))
