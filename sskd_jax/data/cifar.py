"""CIFAR: the official files, or what tfds prepared of them, with a decoded copy beside it.

The images come in the order of the official files (which tfds keeps in their `id`), whatever order and shards they are
stored in: an index means the same image everywhere, so a seed gives the same batches on every machine.
"""

import os
import pathlib
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from sskd_jax.data import official
from sskd_jax.data.kept import kept
from sskd_jax.data.prepared import damaged, first_line, home, is_prepared, open_builder, root
from sskd_jax.system.paths import CACHE, is_remote
from sskd_jax.system.quiet import import_tensorflow
from sskd_jax.types import UserError

SPLITS = ("train", "test")
ORIGIN = "https://www.cs.toronto.edu/~kriz/cifar.html"  # the host that tfds downloads from


def read(name: str, data_dir: str | None) -> dict[str, np.ndarray]:
    """{train,test}_image uint8[N, 32, 32, 3] and {train,test}_label int32[N] (CIFAR-100: the fine label).

    Official files in the folder of datasets are read as they are. What tfds prepared is decoded from PNG the first
    time, which takes half a minute; then it comes from the copy.
    """
    if source := official.find(name, root(data_dir)):
        splits, _ = official.read(name, source)
        return {f"{split}_image": splits[split].image for split in SPLITS} | {
            f"{split}_label": np.asarray(splits[split].labels["label"], np.int32)
            for split in SPLITS
        }
    builder = open_builder(name, data_dir)
    if not is_prepared(builder, SPLITS):
        _download(builder)
    folder = epath.Path(builder.data_dir)
    beside = CACHE / builder.name if is_remote(folder) else pathlib.Path(folder).parent
    return kept(
        beside / f".{folder.name}.decoded.npz",
        _fingerprint(folder),
        lambda: _decode(builder, "train") | _decode(builder, "test"),
    )


def _download(builder: Any) -> None:
    """Lets tfds download and prepare the dataset; looks for a network first, as tfds would retry for minutes."""
    reason = None if _reachable() else "no network"
    if reason is None:
        try:
            import_tensorflow()
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # network, proxy, disk and checksum errors of four libraries
            reason = first_line(error)
    if reason:
        raise UserError(
            f"{builder.name} is neither prepared in {home(builder)} nor downloadable ({reason}): "
            f"put the official {official.LAYOUTS[builder.name].archive} there"
        )


def _reachable(timeout: float = 3.0) -> bool:
    """Whether a connection to the dataset's host opens in time, or to the proxy in front of it."""
    answer: list[bool] = []

    def connect() -> None:
        try:
            url = urllib.parse.urlsplit(urllib.request.getproxies().get("https", ORIGIN))
            socket.create_connection((url.hostname, url.port or 443), timeout).close()
            answer.append(True)
        except (OSError, ValueError):  # ValueError: the proxy's address makes no sense
            pass

    thread = threading.Thread(
        target=connect, daemon=True
    )  # a thread: a lookup of the name knows no timeout
    thread.start()
    thread.join(timeout)
    return bool(answer)


def _decode(builder: Any, split: str) -> dict[str, np.ndarray]:
    """The image and label arrays of a prepared split, sorted by the `id` that tells the official order."""
    count = builder.info.splits[split].num_examples
    try:
        records = tqdm(
            _records(builder, split),
            f"decoding {builder.name} {split}",
            count,
            leave=False,
            disable=None,
        )
        rows = sorted(
            ((row["id"], row["image"], row["label"]) for row in records), key=lambda row: row[0]
        )
    except Exception as error:  # of array_record, protobuf, PIL or TensorFlow
        raise damaged(builder, first_line(error)) from error
    if len({row[0] for row in rows}) != count:
        raise damaged(builder, f"{len(rows)} of {count} {split} images")
    _, image, label = zip(*rows, strict=True)
    return {f"{split}_image": np.stack(image), f"{split}_label": np.asarray(label, np.int32)}


def _records(builder: Any, split: str) -> Iterable[dict[str, Any]]:
    """Examples as numpy; only a dataset in another format than array_record takes TensorFlow to read."""
    if builder.info.file_format.value == "array_record":
        return builder.as_data_source(split)
    import tensorflow_datasets as tfds

    import_tensorflow()
    return tfds.as_numpy(builder.as_dataset(split=split))


def _fingerprint(folder: epath.Path) -> str:
    """Changes when the dataset is prepared anew: names, sizes and times of its files."""
    stats = [(path, path.stat()) for path in sorted(folder.iterdir())]
    return repr(
        [
            (path.name, stat.length, stat.mtime if is_remote(path) else os.stat(path).st_mtime_ns)
            for path, stat in stats
        ]
    )
