"""CIFAR-10 and CIFAR-100 in memory, from the official files or as tfds prepared them.

The images are in the order of the official files. tfds stores them in another order and in shards,
but keeps the official order in their `id`. So an index means the same image everywhere, and a seed
gives the same batches on every machine.
"""

import operator
import os
import pathlib
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from sskd_jax.data import official
from sskd_jax.data.cached import Arrays, cached
from sskd_jax.data.prepared import (
    Busy,
    alone,
    damaged,
    first_line,
    home,
    is_prepared,
    open_builder,
    root,
    usual_format,
)
from sskd_jax.system.console import console
from sskd_jax.system.paths import CACHE, is_remote
from sskd_jax.system.quiet import import_tensorflow
from sskd_jax.types import UserError

SPLITS = ("train", "test")
WAIT_SECONDS = 2.0  # between two checks whether another process has finished its download
ORIGIN = "https://www.cs.toronto.edu/~kriz/cifar.html"  # on the host from which tfds downloads


def read(name: str, data_dir: str | None) -> tuple[Arrays, tuple[str, ...]]:
    """Both splits of a CIFAR dataset, and the names of its classes.

    Official files in the folder of datasets are read directly. A dataset that tfds prepared is
    decoded from PNG the first time, which takes half a minute, and later read from a decoded copy.
    While another process downloads it, such as one of the same run, this process waits.

    Args:
      name: cifar10 or cifar100.
      data_dir: the folder of datasets; None: that of tfds.

    Returns:
      A dict of train_image and test_image, uint8[N, 32, 32, 3], and train_label and test_label,
      int32[N], for CIFAR-100 the fine labels; and the names of the K classes.

    Raises:
      UserError: the dataset is damaged, or absent and can't be downloaded.
    """
    if source := official.find(name, root(data_dir)):
        return _read_official(name, source)
    waiting = False
    while not is_prepared(builder := open_builder(name, data_dir), SPLITS):
        try:
            _download(builder)
        except Busy:
            if not waiting:
                console.print(f"{name}  another process downloads it: waiting")
            waiting = True
            time.sleep(WAIT_SECONDS)
    folder = epath.Path(builder.data_dir)
    parent = CACHE / builder.name if is_remote(folder) else pathlib.Path(folder).parent

    def decode() -> Arrays:
        return _decode(builder, "train") | _decode(builder, "test")

    arrays = cached(parent / f".{folder.name}.decoded.npz", _fingerprint(folder), decode)
    return arrays, tuple(builder.info.features["label"].names)


def _read_official(name: str, source: epath.Path) -> tuple[Arrays, tuple[str, ...]]:
    """The result of `read`, from the official folder or archive."""
    splits, names = official.read(name, source)
    arrays = {}
    for split in SPLITS:
        arrays[f"{split}_image"] = splits[split].image
        arrays[f"{split}_label"] = np.asarray(splits[split].labels["label"], np.int32)
    return arrays, tuple(names["label"])


def _download(builder: Any) -> None:
    """Makes tfds download and prepare a dataset, unless its host can't be reached.

    Raises:
      Busy: another process is doing so.
      UserError: it can't be downloaded.
    """
    # Without a network, tfds would retry for minutes.
    reason = None if _reachable() else "no network"
    if reason is None:
        try:
            import_tensorflow()
            with alone(builder):
                builder.download_and_prepare(file_format=usual_format(builder))
        except Busy:
            raise
        except Exception as error:  # network, proxy, disk and checksum errors of four libraries
            reason = first_line(error)
    if reason:
        raise UserError(
            f"{builder.name} is neither prepared in {home(builder)} nor downloadable ({reason}): "
            f"put the official {official.LAYOUTS[builder.name].archive} there"
        )


def _reachable(timeout: float = 3.0) -> bool:
    """Whether CIFAR's host, or the proxy to it, answers within `timeout` seconds."""
    connected = threading.Event()

    def connect() -> None:
        try:
            url = urllib.parse.urlsplit(urllib.request.getproxies().get("https", ORIGIN))
            socket.create_connection((url.hostname, url.port or 443), timeout).close()
            connected.set()
        except (OSError, ValueError):  # ValueError: the proxy's address makes no sense
            pass

    # In a thread, because looking up the host's name has no time-out of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout)
    return connected.is_set()


def _decode(builder: Any, split: str) -> Arrays:
    """Image and label arrays of a prepared split, in the official order.

    Raises:
      UserError: the dataset is damaged.
    """
    count = builder.info.splits[split].num_examples
    title = f"decoding {builder.name} {split}"
    examples = []
    try:
        for record in tqdm(_records(builder, split), title, count, leave=False, disable=None):
            examples.append((record["id"], record["image"], record["label"]))
    except Exception as error:  # of array_record, protobuf, PIL or TensorFlow
        raise damaged(builder, first_line(error)) from error
    if len({name for name, _, _ in examples}) != count:
        raise damaged(builder, f"{len(examples)} of {count} {split} images")
    examples.sort(key=operator.itemgetter(0))
    _, image, label = zip(*examples, strict=True)
    return {f"{split}_image": np.stack(image), f"{split}_label": np.asarray(label, np.int32)}


def _records(builder: Any, split: str) -> Iterable[dict[str, Any]]:
    """A prepared split's examples as numpy arrays by feature.

    TensorFlow is needed only for a dataset in another format than array_record.
    """
    if builder.info.file_format.value == "array_record":
        return builder.as_data_source(split)
    import tensorflow_datasets as tfds

    import_tensorflow()
    return tfds.as_numpy(builder.as_dataset(split=split))


def _fingerprint(folder: epath.Path) -> str:
    """Names, sizes and times of a dataset's files, which change when it is prepared again."""
    files = []
    for path in sorted(folder.iterdir()):
        if is_remote(path):
            found = path.stat()
            size, changed = found.length, found.mtime
        else:  # etils would also look up the owner's name, which a container may not know
            found = os.stat(path)
            size, changed = found.st_size, found.st_mtime_ns
        files.append((path.name, size, changed))
    return repr(files)
