"""Splits too large for a device's memory: read, decoded and cropped on the host during training.

An image is read by its position in the dataset, so the caller decides the order, and any number of
processes can read parts of it. A crop depends on a seed and the image's position in the epoch. So
a run that is resumed, even on another machine, sees the same pixels.
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
from sskd_jax.data.cached import cached
from sskd_jax.data.records import Records, cache_file, open_records
from sskd_jax.system.console import console
from sskd_jax.system.quiet import import_tensorflow
from sskd_jax.types import Streamed, UserError, choose

READ_AT_ONCE = 64  # records
READERS = 8
AHEAD = 4  # batches that are prepared in advance
LABELS_AT_ONCE = 256  # records that are parsed together for their labels

# (first, last) -> dispatches that together make the steps first to last - 1 of an epoch. A dispatch
# (examples, i, j) runs the steps i to j - 1 of those in `examples`.
Feed = Callable[[int, int], Iterator[tuple[Any, int, int]]]


class Framing(NamedTuple):
    """How an image is cropped to a square.

    Attributes:
      size: the side of the result, in pixels.
      resize: the length in pixels of an evaluation image's shorter side before its centre crop.
      scale: smallest and largest share of a training image's area that its crop covers.
      ratio: smallest and largest width over height of a crop.
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
      row: i64[N], the positions of the images in `records`, in order.
      num_classes: the number of classes.
      framing: how images are cropped.
      where: the name of the split in error messages.
      key: a text that changes when the files change.
      given: i32[N], labels that replace those in the files; None: the files' labels.
      damaged: names of the images that could not be decoded so far.
    """

    records: Records
    row: np.ndarray
    num_classes: int
    framing: Framing
    where: str
    key: str
    given: np.ndarray | None = None
    damaged: set[str] = dataclasses.field(default_factory=set)

    @property
    def size(self) -> int:
        return len(self.row)

    @property
    def shape(self) -> tuple[int, int, int]:
        """[H, W, C] of an image."""
        return self.framing.size, self.framing.size, 3

    @functools.cached_property
    def label(self) -> np.ndarray:
        """i32[N]; the first time, the whole split is read for them, and they are cached."""
        if self.given is not None:
            return self.given
        labels = cached(cache_file("labels", [self.key]), self.key, self.read_labels)["label"]
        return labels[self.row]

    def read_labels(self) -> dict[str, np.ndarray]:
        """{"label": i32[M]} of the whole split."""
        import_tensorflow()
        from sskd_jax.data import jpeg

        index = np.arange(len(self.records))
        parts = np.split(index, index[LABELS_AT_ONCE::LABELS_AT_ONCE])
        unit = f" x {LABELS_AT_ONCE}"
        shown = tqdm(parts, f"labels of {self.where}", unit=unit, leave=False, disable=None)
        try:
            labels = [jpeg.labels(self.records.__getitems__(part)) for part in shown]
        except Exception as error:  # of its own kind for every format
            raise UserError(
                f"{self.where} can't be read ({prepared.first_line(error)[:300]}): prepare it again"
            ) from error
        return {"label": np.concatenate(labels)}

    def take(self, chosen: np.ndarray) -> "Stream":
        """The images for which `chosen` bool[N] is true, with their labels if these were read."""
        known = self.given is not None or "label" in vars(self)
        given = self.label[chosen] if known else None
        return dataclasses.replace(self, row=self.row[chosen], given=given)

    def relabel(self, label: np.ndarray) -> "Stream":
        """The same images with other labels, i32[N]."""
        return dataclasses.replace(self, given=label)

    def resident(self, labelled: bool = False) -> dict[str, np.ndarray]:
        """The arrays that are resident on the device while a stage is trained.

        They contain no images, and labels only if `labelled`.
        """
        label = self.label if labelled else np.zeros(0, np.int32)
        return {"image": np.zeros((0, *self.shape), np.uint8), "label": label}

    def epoch(self, order: np.ndarray, place: np.ndarray, seed: int, start: int) -> Feed:
        """A feed of dispatches of one step each, which contain their images.

        Args:
          order: i32[devices, steps, n], the images for this process's devices.
          place: of the same shape, each image's position in the epoch; it and `seed` decide the
            crop.
          seed: of the epoch.
          start: the step of the first dispatch.
        """
        batches = self.batches(order[:, start:], seed, place[:, start:])

        def feed(first: int, last: int) -> Iterator[tuple[Streamed, int, int]]:
            for batch in itertools.islice(batches, last - first):
                yield batch, 0, 1

        return feed

    def in_order(
        self, index: np.ndarray, mask: np.ndarray
    ) -> Iterator[tuple[Streamed, np.ndarray]]:
        """Yields (batch, mask [devices, 1, n]) of evaluation images, one batch after another.

        Args:
          index: i32[devices, batches, n], the images.
          mask: bool of the same shape.
        """
        for i, batch in enumerate(self.batches(index)):
            yield batch, mask[:, i : i + 1]

    def batches(
        self, index: np.ndarray, seed: int = 0, place: np.ndarray | None = None
    ) -> Iterator[Streamed]:
        """Yields batches of images, with image u8[devices, 1, n, H, W, C].

        A damaged image is replaced by a black one, and its name is printed once.

        Args:
          index: i32[devices, batches, n], the images.
          seed: it and `place` decide the crop.
          place: of the same shape as `index`; None: the centre is cut out.

        Raises:
          UserError: the data can't be read, or has labels outside of the classes.
        """
        import_tensorflow()
        import tensorflow as tf

        devices, count, n = index.shape
        places = np.zeros(index.shape, np.int64) if place is None else place
        seeds = np.stack([np.full(index.shape, seed), places], axis=-1).astype(np.int64)
        rows, seeds = whole_batches(self.row[index]), whole_batches(seeds)

        def shares(array: np.ndarray) -> np.ndarray:
            return array.reshape(devices, 1, n, *array.shape[1:])

        # Tolerating damaged images makes reading 10 % slower. So it begins without tolerance; at
        # the first damaged image it restarts, tolerant, after the batches that were yielded.
        done, tolerant = 0, bool(self.damaged)
        while done < count:
            decoded = self.decoded(rows[done:], seeds[done:], place is None, tolerant)
            try:
                for image, label in decoded:
                    chosen = index[:, done : done + 1]
                    labels = shares(label) if self.given is None else self.given[chosen]
                    yield Streamed(shares(image), labels, chosen)
                    done += 1
            except tf.errors.OpError as error:
                if tolerant:
                    raise UserError(
                        f"{self.where} can't be read ({prepared.first_line(error)[:300]}): the "
                        "checkpoints are kept, and the same command goes on once it can"
                    ) from error
                tolerant = True

    def decoded(
        self, rows: np.ndarray, seeds: np.ndarray, centre: bool, tolerant: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields image u8[n, H, W, C] and label i32[n] of every batch.

        Args:
          rows: i64[batches, n], positions in `records`.
          seeds: i64[batches, n, 2], of the crops.
          centre: whether to cut out the centre instead of a random crop.
          tolerant: whether a damaged image becomes black instead of raising an error.
        """
        images = pipeline(self, rows.ravel(), seeds.reshape(-1, 2), centre, tolerant)
        data = images.batch(rows.shape[1]).prefetch(AHEAD)
        for image, label, name, sound in data.as_numpy_iterator():
            self.report(name[~sound])
            self.check(label)
            yield image, label

    def report(self, names: Sequence[bytes]) -> None:
        """Prints a line about every damaged image that was not reported before."""
        found = {name.decode(errors="replace") for name in names}
        for name in sorted(found - self.damaged):
            self.damaged.add(name)
            text = (
                f"damaged  {name} of {self.where} can't be decoded: a black image stands for it "
                f"({len(self.damaged)} so far)"
            )
            if console.quiet:  # in all processes except the chief
                print(text, file=sys.stderr)
            else:
                console.print(text)

    def check(self, label: np.ndarray) -> None:
        """Raises a `UserError` if a label is outside of [0, num_classes)."""
        low, high = label.min(), label.max()
        if low < 0 or high >= self.num_classes:
            raise UserError(
                f"{self.where} has the label {low if low < 0 else high}, outside "
                f"0..{self.num_classes - 1}: choose another split, or prepare it again"
            )


def whole_batches(array: np.ndarray) -> np.ndarray:
    """[devices, batches, n, ...] -> [batches, devices * n, ...]."""
    devices, batches, n, *rest = array.shape
    return array.swapaxes(0, 1).reshape(batches, devices * n, *rest)


def pipeline(
    stream: Stream, rows: np.ndarray, seeds: np.ndarray, centre: bool, tolerant: bool
) -> Any:
    """A tf.data.Dataset of (image, label, name, sound), one for each of `rows`, in that order.

    Args:
      stream: from which they are read.
      rows: i64[N], positions in the stream's records.
      seeds: i64[N, 2], of the crops.
      centre: whether to cut out the centre instead of a random crop.
      tolerant: whether a damaged image becomes black and not `sound`, instead of an error.
    """
    import tensorflow as tf

    from sskd_jax.data import jpeg

    decode = decoder(stream.framing, centre, tolerant)

    def read(rows: np.ndarray) -> np.ndarray:
        return np.asarray(stream.records.__getitems__(rows), object)

    def with_records(rows: Any, seeds: Any) -> tuple[Any, ...]:
        records = tf.numpy_function(read, [rows], tf.string)
        return rows, tf.ensure_shape(records, [None]), seeds

    def with_image(row: Any, record: Any, seed: Any) -> tuple[Any, ...]:
        content, label, file_name = jpeg.parse(record)
        image, sound = decode(content, seed)
        name = tf.strings.join([file_name, " (", tf.strings.as_string(row), ")"])
        return image, label, name, sound

    data = tf.data.Dataset.from_tensor_slices((rows, seeds)).batch(READ_AT_ONCE)
    data = data.map(with_records, READERS, deterministic=True).unbatch()
    return data.map(with_image, tf.data.AUTOTUNE, deterministic=True)


def decoder(framing: Framing, centre: bool, tolerant: bool) -> Callable[[Any, Any], Any]:
    """(JPEG file, seed i64[2]) -> (image u8[H, W, C], whether it is sound), as a TensorFlow graph.

    Args:
      framing: of the image.
      centre: whether to cut out the centre instead of a random crop.
      tolerant: whether a damaged file gives a black image that is not sound, instead of an error.
    """
    from sskd_jax.data import jpeg

    size, resize, scale, ratio = framing
    if centre:
        cut = functools.partial(jpeg.decode_centre, size=size, resize=resize)
    else:
        cut = functools.partial(jpeg.decode_random, size=size, scale=scale, ratio=ratio)
    if tolerant:
        return jpeg.or_black(cut, (size, size, 3))

    def decode(content: Any, seed: Any) -> tuple[Any, bool]:
        return cut(content, seed), True

    return decode


def load(
    name: str, data_dir: str | None, test_split: str, **framing: Any
) -> tuple[Stream, Stream, int, tuple[str, ...], dict[str, str]]:
    """The fields of a `Dataset`, of a prepared dataset.

    Args:
      name: of any tfds dataset of JPEG images with one label each. Most datasets in the catalogue
        do not say which format their images have, so the first image is checked.
      data_dir: the folder of datasets; None: that of tfds.
      test_split: the split to test on, such as "validation".
      **framing: the fields of `Framing`.

    Raises:
      UserError: the dataset is absent, not whole, or of another kind.
    """
    import_tensorflow()  # before tfds does, and as it should be
    import tensorflow_datasets as tfds

    builder = prepared.open_builder(name, data_dir)
    if not prepared.is_prepared(builder, ("train",)):
        raise UserError(
            f"{name} is not in {prepared.home(builder)}: prepare it with "
            f"{prepared.command(name, prepared.home(builder))}"
        )
    choose(builder.info.splits, test_split, f"test_split of {name}")
    image, label = map(dict(builder.info.features.items()).get, ("image", "label"))
    unfit = UserError(
        f"{name} has no JPEG `image` and class `label`: only such datasets can be streamed"
    )
    if not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
        raise unfit
    train, test = (
        open_stream(builder, split, label.num_classes, framing) for split in ("train", test_split)
    )
    try:
        fits = begins_with_jpeg(train.records)
    except Exception as error:  # of array_record, protobuf or TensorFlow
        raise prepared.damaged(builder, prepared.first_line(error)) from error
    if not fits:
        raise unfit
    return train, test, label.num_classes, tuple(label.names), prepared.fingerprint(builder)


def begins_with_jpeg(records: Records) -> bool:
    """Whether the image of the first serialized example is a JPEG file."""
    from sskd_jax.data import jpeg

    (record,) = records.__getitems__([0])
    content, *_ = jpeg.parse(record)
    return content.numpy().startswith(b"\xff\xd8")


def open_stream(builder: Any, split: str, num_classes: int, framing: dict[str, Any]) -> Stream:
    """All images of a prepared split."""
    records, key = open_records(builder, split)
    where = f"{builder.name}, {split}"
    return Stream(records, np.arange(len(records)), num_classes, Framing(**framing), where, key)
