"""Random access to the serialized examples of a prepared dataset, whichever of tfds's two formats it is stored in."""

import pathlib
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import fsspec
import numpy as np
from tqdm import tqdm

from sskd_jax.data.kept import kept
from sskd_jax.data.prepared import damaged, first_line
from sskd_jax.system.paths import CACHE
from sskd_jax.types import UserError

HEADER, FOOTER = (
    12,
    4,
)  # bytes around a record of TFRecord: its length and that number's checksum; its own checksum
THREADS = 32  # that wait for a disk or a bucket


class Records(Protocol):
    """The serialized examples of a split, by their place in its files."""

    def __getitems__(self, rows: Sequence[int]) -> Sequence[bytes]: ...


class TFRecords:
    """Records of TFRecord files, by an index of where each begins, which is made once and kept.

    fsspec reads the very bytes of each, all of a call at once, from a disk as from a bucket.
    """

    def __init__(
        self, fs: fsspec.AbstractFileSystem, paths: Sequence[str], key: str, description: str
    ):
        self.fs, self.paths = fs, paths
        spans = kept(kept_file("index", paths), key, lambda: self.find(description))
        self.shard, self.start, self.stop = spans["shard"], spans["start"], spans["stop"]

    def find(self, description: str) -> dict[str, np.ndarray]:
        """Of every record the number of its file, and where it starts and stops."""
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(self.spans, self.paths)
            spans = list(
                tqdm(found, description, len(self.paths), unit=" files", leave=False, disable=None)
            )
        return {
            "shard": np.repeat(
                np.arange(len(spans), dtype=np.int32), [len(span) for span in spans]
            ),
            "start": np.concatenate(spans)[:, 0],
            "stop": np.concatenate(spans)[:, 1],
        }

    def spans(self, path: str) -> np.ndarray:
        """[N, 2], start and stop of the records of one file."""
        found, at, size = [], 0, self.fs.size(path)
        with self.fs.open(path, "rb") as file:
            while len(header := file.read(HEADER)) == HEADER:
                start, stop = at + HEADER, at + HEADER + int.from_bytes(header[:8], "little")
                at = stop + FOOTER
                if at > size:
                    break
                found.append((start, stop))
                file.seek(at)
        return np.asarray(found, np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.shard)

    def __getitems__(self, rows: Sequence[int]) -> list[bytes]:
        paths = [self.paths[number] for number in self.shard[rows]]
        return self.fs.cat_ranges(
            paths, self.start[rows].tolist(), self.stop[rows].tolist(), on_error="raise"
        )


def kept_file(what: str, paths: Sequence[str]) -> pathlib.Path:
    """Where something about these files is kept on this machine."""
    return CACHE / f"{what}-{zlib.crc32(repr(list(paths)).encode()):08x}.npz"


def open_records(builder: Any, split: str) -> tuple[Records, str]:
    """Those of a prepared split, and a key that changes with its files.

    Raises:
      UserError: they can't be read, or are fewer than there should be.
    """
    info = builder.info.splits[split]
    try:
        records, key = open_files(
            [str(path) for path in info.filepaths],
            builder.info.file_format.value,
            f"indexing {builder.name} {split}",
        )
    except ImportError as error:  # what fsspec needs for a bucket
        raise UserError(f"{builder.data_dir} can't be read: {first_line(error)}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise damaged(builder, first_line(error)) from error
    if len(records) != info.num_examples:
        raise damaged(builder, f"{len(records)} of {info.num_examples} {split} images")
    return records, key


def open_files(paths: Sequence[str], form: str, description: str) -> tuple[Records, str]:
    fs = fsspec.core.url_to_fs(paths[0])[0]
    paths = [fs._strip_protocol(path) for path in paths]
    key = repr([(path, fs.ukey(path)) for path in paths])
    if form == "tfrecord":
        return TFRecords(fs, paths, key, description), key
    if form != "array_record" or "file" not in fs.protocol:
        raise UserError(
            f"{paths[0]} is of the format {form}, which can't be read image by image there: prepare the "
            "dataset with --file_format=tfrecord"
        )
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource(paths), key
