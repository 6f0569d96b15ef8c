"""Splits too large for a device's memory: read, decoded and cut on the host while the device trains.

An image is found by its place in the dataset, so the order is the caller's, whatever number of processes reads its own
part of it; a crop is drawn from a seed and the image's place in the epoch. So a run that goes on, or runs on other
machines, sees the same.
"""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from sskd_jax.data import prepared
from sskd_jax.data.kept import kept
from sskd_jax.data.records import Records, kept_file, open_records
from sskd_jax.system.console import console
from sskd_jax.system.quiet import import_tensorflow
from sskd_jax.types import Streamed, UserError, choose

READ_AT_ONCE = 64  # records
READERS = 8
AHEAD = 4  # batches that wait for the device

# (start, stop) -> dispatches (rows, first step, last step + 1) that together are these steps of an epoch
Feed = Callable[[int, int], Iterator[tuple[Any, int, int]]]


class Framing(NamedTuple):
    """How an image is cut to `size` pixels square.

    Attributes:
      size: of the result.
      resize: to how many pixels the shorter side of an evaluation image is brought before its centre is cut out.
      scale: least and largest share of a training image's area that its crop covers.
      ratio: least and largest width over height of a crop.
    """

    size: int
    resize: int
    scale: tuple[float, float]
    ratio: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Stream:
    """Some images of a prepared split.

    Attributes:
      records: of the whole split.
      row: i64[N], which of them, in order.
      num_classes: that its labels tell apart.
      framing: how images are cut.
      where: what to call it.
      key: changes with the files.
      damaged: names of images that could not be decoded; grows as they are met.
    """

    records: Records
    row: np.ndarray
    num_classes: int
    framing: Framing
    where: str
    key: str
    damaged: set[str] = dataclasses.field(default_factory=set)

    @property
    def size(self) -> int:
        return len(self.row)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.framing.size, self.framing.size, 3

    @functools.cached_property
    def label(self) -> np.ndarray:
        """i32[N]. Takes reading the whole split once, so few ask for it; kept for the next time."""
        return kept(kept_file("labels", [self.key]), self.key, self.read_labels)["label"][self.row]

    def read_labels(self) -> dict[str, np.ndarray]:
        import_tensorflow()
        from sskd_jax.data import jpeg

        rows = np.arange(len(self.records))
        parts = np.split(rows, rows[256::256])
        shown = tqdm(parts, f"labels of {self.where}", unit=" x 256", leave=False, disable=None)
        return {
            "label": np.concatenate(
                [jpeg.labels(self.records.__getitems__(part)) for part in shown]
            )
        }

    def take(self, chosen: np.ndarray) -> "Stream":
        """The images where bool[N] says so."""
        return dataclasses.replace(self, row=self.row[chosen])

    def resident(self, labelled: bool = False) -> dict[str, np.ndarray]:
        """What lies on the device while a stage is trained: no images, and labels only where they are asked for."""
        label = self.label if labelled else np.zeros(0, np.int32)
        return {"image": np.zeros((0, *self.shape), np.uint8), "label": label}

    def epoch(self, order: np.ndarray, place: np.ndarray, seed: int, start: int) -> Feed:
        """Dispatches of one step, `start` of the epoch being the first, which bring their images along.

        Args:
          order: i32[devices, steps, n], images of this process's devices.
          place: of each in the epoch: with `seed` it decides the crop.
          seed: of the epoch.
        """
        steps = self.batches(order[:, start:], seed, place[:, start:])
        return lambda start, stop: ((rows, 0, 1) for rows in itertools.islice(steps, stop - start))

    def in_order(
        self, index: np.ndarray, mask: np.ndarray
    ) -> Iterator[tuple[Streamed, np.ndarray]]:
        """The batches of `index` and `mask` [devices, batches, n] one by one, their centres."""
        for i, rows in enumerate(self.batches(index)):
            yield rows, mask[:, i : i + 1]

    def batches(
        self, index: np.ndarray, seed: int = 0, place: np.ndarray | None = None
    ) -> Iterator[Streamed]:
        """[devices, 1, n] images for every batch of `index` i32[devices, batches, n].

        Raises:
          UserError: the data can't be read.
        """
        import_tensorflow()
        import tensorflow as tf

        devices, count, n = index.shape
        seeds = np.stack(
            [np.full(index.shape, seed), np.zeros(index.shape) if place is None else place], -1
        )
        rows, seeds = (
            array.swapaxes(0, 1).reshape(count, devices * n, *array.shape[3:])
            for array in (self.row[index], seeds.astype(np.int64))
        )
        done, tolerant = 0, bool(self.damaged)
        while done < count:
            try:
                for image, label in self.decoded(
                    rows[done:], seeds[done:], place is None, tolerant
                ):
                    image, label = (
                        array.reshape(devices, 1, n, *array.shape[1:]) for array in (image, label)
                    )
                    yield Streamed(image, label, index[:, done : done + 1])
                    done += 1
            except tf.errors.OpError as error:
                if tolerant:
                    raise UserError(
                        f"{self.where} can't be read ({prepared.first_line(error)[:300]}): the checkpoints "
                        "are kept, and the same command goes on once it can"
                    ) from error
                tolerant = True  # which costs a tenth of the rate

    def decoded(
        self, rows: np.ndarray, seeds: np.ndarray, centre: bool, tolerant: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images and labels of the batches of `rows` i64[batches, n]. If not `tolerant`, damage is an error."""
        data = pipeline(self, rows.ravel(), seeds.reshape(-1, 2), centre, tolerant).batch(
            rows.shape[1]
        )
        for image, label, name, sound in data.prefetch(AHEAD).as_numpy_iterator():
            self.report(name[~sound])
            self.check(label)
            yield image, label

    def report(self, names: Sequence[bytes]) -> None:
        """A line about every damaged image that is met for the first time."""
        for name in sorted({name.decode(errors="replace") for name in names} - self.damaged):
            self.damaged.add(name)
            text = (
                f"damaged  {name} of {self.where} can't be decoded: a black image stands for it "
                f"({len(self.damaged)} so far)"
            )
            print(text, file=sys.stderr) if console.quiet else console.print(
                text
            )  # other processes have no console

    def check(self, label: np.ndarray) -> None:
        if label.min() < 0 or label.max() >= self.num_classes:
            raise UserError(
                f"{self.where} has the label {label.min() if label.min() < 0 else label.max()}, outside "
                f"0..{self.num_classes - 1}: choose another split, or prepare it again"
            )


def pipeline(
    stream: Stream, rows: np.ndarray, seeds: np.ndarray, centre: bool, tolerant: bool
) -> Any:
    """A tf.data.Dataset of (image, label, name, sound), one for each of `rows`, in that order."""
    import tensorflow as tf

    from sskd_jax.data import jpeg

    size, resize, scale, ratio = stream.framing
    if centre:
        cut = functools.partial(jpeg.decode_centre, size=size, resize=resize)
    else:
        cut = functools.partial(jpeg.decode_random, size=size, scale=scale, ratio=ratio)
    decode = (
        jpeg.or_black(cut, stream.shape)
        if tolerant
        else lambda content, seed: (cut(content, seed), True)
    )

    def read(rows: np.ndarray) -> np.ndarray:
        return np.asarray(stream.records.__getitems__(rows), object)

    def records(rows: Any, seeds: Any) -> tuple[Any, ...]:
        return rows, tf.ensure_shape(tf.numpy_function(read, [rows], tf.string), [None]), seeds

    def example(row: Any, record: Any, seed: Any) -> tuple[Any, ...]:
        content, label, name = jpeg.parse(record)
        image, sound = decode(content, seed)
        return image, label, tf.strings.join([name, " (", tf.strings.as_string(row), ")"]), sound

    data = tf.data.Dataset.from_tensor_slices((rows, seeds)).batch(READ_AT_ONCE)
    data = data.map(records, READERS, deterministic=True).unbatch()
    return data.map(example, tf.data.AUTOTUNE, deterministic=True)


def load(
    name: str, data_dir: str | None, test_split: str, **framing: Any
) -> tuple[Stream, Stream, int]:
    """(training images, test images, number of classes) of any dataset of tfds with JPEG images and one label.

    Raises:
      UserError: it is not there, not whole, or of another kind.
    """
    import_tensorflow()  # before tfds does, and as it should be
    builder = prepared.open_builder(name, data_dir)
    if not prepared.is_prepared(builder, ("train",)):
        raise UserError(
            f"{name} is not in {prepared.home(builder)}: prepare it with "
            f"{prepared.command(name, prepared.home(builder))}"
        )
    choose(builder.info.splits, test_split, f"test_split of {name}")
    features = dict(builder.info.features.items())
    kind = getattr(features.get("image"), "_encoding_format", None)
    if kind != "jpeg" or not hasattr(features.get("label"), "num_classes"):
        raise UserError(
            f"{name} has no JPEG `image` and class `label`: only such datasets can be streamed"
        )
    classes = features["label"].num_classes
    train, test = (open_stream(builder, split, classes, framing) for split in ("train", test_split))
    return train, test, classes


def open_stream(builder: Any, split: str, num_classes: int, framing: dict[str, Any]) -> Stream:
    records, key = open_records(builder, split)
    return Stream(
        records,
        np.arange(len(records)),
        num_classes,
        Framing(**framing),
        f"{builder.name}, {split}",
        key,
    )
