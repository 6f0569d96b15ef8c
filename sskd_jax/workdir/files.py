"""The JSON files of a workdir: written atomically; damage is reported in one line when read."""

import functools
import json
import zlib
from collections.abc import Iterable
from typing import Any, NoReturn

from etils import epath

from sskd_jax.system.paths import write_bytes
from sskd_jax.types import UserError

Row = dict[str, Any]  # what is written as JSON

CONFIG = "config.json"  # of the run
ENVIRONMENTS = "environments.json"  # the machines and versions of all starts, as a list
RESULTS = "results.json"  # a row per stage that is done
STAGE = "stage.json"  # in the folder of a stage: what it trains
METRICS = "metrics.jsonl"  # a row per epoch
TIMES = "times.jsonl"  # a row per checkpoint

# The type of each JSON file's content in a workdir, and the advice if the file is damaged.
CONTENTS = {
    CONFIG: (
        dict,
        "put a copy of it back, or delete this file alone and give the config that the run had; "
        "the checkpoints are kept",
    ),
    ENVIRONMENTS: (
        list,
        "put a copy of it back, or delete this file alone, which forgets the devices of earlier "
        "starts; the checkpoints are kept",
    ),
    RESULTS: (
        list,
        "delete this file alone and start the run once more, which writes it anew; the "
        "checkpoints are kept",
    ),
    STAGE: (dict, "put a copy of it back, or delete its folder"),
}
OTHERS = (dict, "put a copy of it back, or delete this file alone")
CHECKSUM = "checksum"  # the last key of a row
ROW = {"stage": str, "step": int, "seconds": float | int, "environment": int, "epoch": int}


class Content(dict):
    """An object in a JSON file; a missing key is reported with the name of the file."""

    def __init__(self, path: epath.Path, items: Row):
        super().__init__(items)
        self.path = path

    def __missing__(self, key: str) -> NoReturn:
        raise damage(self.path, f"it lacks {key!r}")


def damage(path: epath.Path, reason: object) -> UserError:
    """The error for a file of a workdir that is damaged."""
    _, advice = CONTENTS.get(path.name, OTHERS)
    if path.suffix == ".jsonl":
        advice = "mend or delete it, the checkpoints are kept"
    return UserError(f"{path} is damaged ({reason}): {advice}")


def write_json(path: epath.Path, content: Any) -> None:
    """Replaces a JSON file atomically."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: epath.Path) -> Any:
    """The content of a JSON file of a workdir, which is an object or a list of objects.

    Raises:
      UserError: the file can't be read, is damaged or holds something else; also later, when a
        missing key is looked up.
    """
    content = parse(path, read_text(path))
    kind, _ = CONTENTS.get(path.name, OTHERS)
    if not content or not isinstance(content, kind):
        raise damage(path, f"it holds {json.dumps(content)[:40]}")
    if kind is list and not all(isinstance(part, dict) for part in content):
        raise damage(path, "it holds more than objects")
    return content


def read_text(path: epath.Path) -> str:
    """The text of a file; raises a `UserError` if it can't be read."""
    try:
        return path.read_text()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # bytes that are not valid text
        raise damage(path, error) from error


def parse(path: epath.Path, text: str) -> Any:
    """The content of a file's JSON text; raises a `UserError` if it is not JSON."""
    try:
        return json.loads(text, object_hook=functools.partial(Content, path))
    except (ValueError, RecursionError) as error:
        raise damage(path, error) from error


def read_rows(path: epath.Path) -> list[Row]:
    """The rows of a .jsonl file, without a last line that was cut short.

    Raises:
      UserError: the file can't be read, or a line is not a row as it was written.
    """
    *lines, _ = read_text(path).split("\n")
    rows = [parse(path, line) for line in lines]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or "stage" not in row or "step" not in row:
            raise damage(path, f"line {number} is no row with a stage and a step")
        for key, value in row.items():
            kind = float | int if "/" in key else ROW.get(key, object)
            if not isinstance(value, kind):
                raise damage(path, f"line {number} has {value!r} as its {key}")
    check_checksums(path, rows)
    return rows


def existing_rows(path: epath.Path) -> list[Row]:
    """The rows of a .jsonl file; none if there is no such file yet."""
    return read_rows(path) if path.exists() else []


def check_checksums(path: epath.Path, rows: list[Row]) -> None:
    """Checks the rows of a file against their checksums, which it removes from the rows.

    A file of an earlier version has no checksums.
    """
    if any(CHECKSUM in row for row in rows):
        for number, row in enumerate(rows, 1):
            written = row.pop(CHECKSUM, None)
            if written != checksum(row):
                raise damage(path, f"line {number} is not as it was written")


def checksum(row: Row) -> int:
    return zlib.crc32(json.dumps(row).encode())


def write_rows(path: epath.Path, rows: Iterable[Row]) -> None:
    """Replaces a .jsonl file atomically, with a checksum in every row."""
    lines = (json.dumps(row | {CHECKSUM: checksum(row)}) + "\n" for row in rows)
    write_bytes(path, "".join(lines).encode())
