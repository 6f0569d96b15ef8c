"""Random access to the serialized examples of a prepared dataset, in either format of tfds."""

import contextlib
import pathlib
import resource
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import fsspec
import numpy as np
from tqdm import tqdm

from sskd_jax.data.cached import cached
from sskd_jax.data.prepared import damaged, first_line
from sskd_jax.system.paths import CACHE
from sskd_jax.types import UserError

# A record in a TFRecord file: its length (8 bytes) and a checksum of it (4 bytes); the bytes of
# the example; a checksum of those (4 bytes).
HEADER = 12
FOOTER = 4
THREADS = 32  # for waiting for a disk or a bucket
OTHER_FILES = 256  # files that a process may have open in addition to those of a split


class Records(Protocol):
    """The serialized examples of a split, by their position in its files."""

    def __len__(self) -> int: ...

    def __getitems__(self, index: Sequence[int]) -> Sequence[bytes]: ...


class TFRecords:
    """Random access to TFRecord files, which have no index of their own.

    The start of each record is found once and cached. fsspec reads only the bytes of the requested
    records, all records of a call at once, from a disk or from a bucket.
    """

    def __init__(
        self, fs: fsspec.AbstractFileSystem, paths: Sequence[str], key: str, description: str
    ):
        self.fs, self.paths = fs, paths
        spans = cached(cache_file("index", paths), key, lambda: self.find(description))
        self.shard, self.start, self.stop = spans["shard"], spans["start"], spans["stop"]

    def find(self, description: str) -> dict[str, np.ndarray]:
        """The index of all records: shard i32[N], the number of the file; start, stop i64[N]."""
        count = len(self.paths)
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(self.spans, self.paths)
            shown = tqdm(found, description, count, unit=" files", leave=False, disable=None)
            spans = list(shown)
        lengths = [len(span) for span in spans]
        joined = np.concatenate(spans)
        return {
            "shard": np.repeat(np.arange(count, dtype=np.int32), lengths),
            "start": joined[:, 0],
            "stop": joined[:, 1],
        }

    def spans(self, path: str) -> np.ndarray:
        """(start, stop) of the examples of one file, i64[N, 2] in bytes.

        A record that the end of the file cuts short is left out.
        """
        found, at, size = [], 0, self.fs.size(path)
        with self.fs.open(path, "rb") as file:
            while len(header := file.read(HEADER)) == HEADER:
                start = at + HEADER
                stop = start + int.from_bytes(header[:8], "little")
                at = stop + FOOTER
                if at > size:
                    break
                found.append((start, stop))
                file.seek(at)
        return np.asarray(found, np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.shard)

    def __getitems__(self, index: Sequence[int]) -> list[bytes]:
        paths = [self.paths[number] for number in self.shard[index]]
        starts, stops = self.start[index].tolist(), self.stop[index].tolist()
        return self.fs.cat_ranges(paths, starts, stops, on_error="raise")


def cache_file(what: str, names: Sequence[str]) -> pathlib.Path:
    """The file where this machine caches facts about files, by the CRC-32 of what names them."""
    return CACHE / f"{what}-{zlib.crc32(repr(list(names)).encode()):08x}.npz"


def open_records(builder: Any, split: str) -> tuple[Records, str]:
    """The records of a prepared split, and a key that changes when its files change.

    Raises:
      UserError: the files can't be read, or do not hold as many examples as they should.
    """
    info = builder.info.splits[split]
    paths = [str(path) for path in info.filepaths]
    form, description = builder.info.file_format.value, f"indexing {builder.name} {split}"
    try:
        records, key = open_files(paths, form, description)
    except ImportError as error:  # what fsspec needs for a bucket
        raise UserError(f"{builder.data_dir} can't be read: {first_line(error)}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise damaged(builder, first_line(error)) from error
    if len(records) != info.num_examples:
        raise damaged(builder, f"{len(records)} of {info.num_examples} {split} images")
    return records, key


def open_files(paths: Sequence[str], form: str, description: str) -> tuple[Records, str]:
    """The records of files, and a key that changes when these change.

    Args:
      paths: of the files, on a disk or in a bucket.
      form: the format of all of them, "array_record" or "tfrecord".
      description: the text of a progress bar while they are indexed.

    Raises:
      UserError: records of this format can't be read one by one from where the files are.
    """
    fs = fsspec.core.url_to_fs(paths[0])[0]
    paths = [fs._strip_protocol(path) for path in paths]
    fs.ls(fs._parent(paths[0]))  # fsspec keeps a bucket's list, which saves a request per file
    key = repr([(path, fs.ukey(path)) for path in paths])
    if form == "tfrecord":
        return TFRecords(fs, paths, key, description), key
    if form != "array_record" or "file" not in fs.protocol:
        raise UserError(
            f"{paths[0]} is of the format {form}, which can't be read image by image there: "
            "prepare the dataset with --file_format=tfrecord"
        )
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    allow_open(len(paths), paths[0])  # all of them stay open
    return ArrayRecordDataSource(paths), key


def allow_open(count: int, example: str) -> None:
    """Raises this process's limit of open files to the highest that the system allows.

    Args:
      count: the number of files that it will keep open.
      example: the path of one of them.

    Raises:
      UserError: the limit is too low for these files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit that is set elsewhere
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft != resource.RLIM_INFINITY and soft < count + OTHER_FILES:
        raise UserError(
            f"{example} is one of {count} files that stay open, and this process may open {soft}: "
            f"type ulimit -n {count + OTHER_FILES} first, or prepare the dataset with "
            "--file_format=tfrecord"
        )
