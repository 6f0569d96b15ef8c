r"""How fast training images are read, decoded and cropped: by this package, and by PIL.

    python -m experiments.bench.input --config=configs/imagenet.py --config.data.data_dir=DIR

PIL is used as in PyTorch's usual loaders. Both take the same records of the training split.
`per_core` is images per second of processor time, so that neither gains by the number of cores, and
other work on the machine counts less. `experiments.bench.benchmark` measures how many images per
second the training steps consume.
"""

import io
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from experiments.bench import command
from experiments.bench.timing import ROUNDS
from sskd_jax import plan, settings
from sskd_jax.data.stream import Framing, Stream
from sskd_jax.types import UserError
from sskd_jax.workdir.files import Row

BATCHES = flags.DEFINE_integer(
    "batches", 64, "Batches per timing, besides a first one.", lower_bound=1
)
BATCH = flags.DEFINE_integer("batch", 64, "Images per batch.", lower_bound=1)

# ImageNet's, per channel.
MEAN = np.float32((0.485, 0.456, 0.406)).reshape(3, 1, 1)
STD = np.float32((0.229, 0.224, 0.225)).reshape(3, 1, 1)

Files = Sequence[bytes]
Rates = tuple[float, float]  # images per second, and per second of processor time


def ours(stream: Stream, index: np.ndarray, files: Files) -> Iterator[np.ndarray]:
    """This package's uint8 batches of the images `index` [batches, n], as sent to the device."""
    place = np.arange(index.size).reshape(1, *index.shape)
    return (batch.image for batch in stream.batches(index[None], 0, place))


def pil(
    stream: Stream, index: np.ndarray, files: Files, finish: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """PIL's batches of the images `index` [batches, n], decoded in one thread.

    The contents of the files are given, whereas this package's time includes reading the records.
    """
    for batch in index:
        yield np.stack([finish(pil_image(files[i], stream.framing)) for i in batch])


def contents(stream: Stream) -> Files:
    """The first JPEG files of a split, at most as many as are timed."""
    from sskd_jax.data import jpeg

    records = stream.records.__getitems__(stream.row[: BATCHES.value * BATCH.value])
    return [jpeg.parse(record)[0].numpy() for record in records]


def pil_image(content: bytes, framing: Framing) -> np.ndarray:
    """An image uint8[size, size, 3] from a JPEG file: cropped and mirrored at random, resized."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image = image.crop(pil_box(*image.size, framing))
    image = image.resize((framing.size, framing.size), Image.BILINEAR)
    if random.random() < 0.5:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def pil_box(width: int, height: int, framing: Framing) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the first of ten random boxes that fits into the image.

    If none fits, they are those of the whole image.
    """
    for _ in range(10):
        area = width * height * random.uniform(*framing.scale)
        shape = math.exp(random.uniform(*map(math.log, framing.ratio)))
        box_width, box_height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = random.randint(0, width - box_width), random.randint(0, height - box_height)
            return left, top, left + box_width, top + box_height
    return 0, 0, width, height


def normalised(image: np.ndarray) -> np.ndarray:
    """A normalised image f32[3, size, size], as by PyTorch's loaders; here, devices normalise."""
    return (image.transpose(2, 0, 1).astype(np.float32) / 255 - MEAN) / STD


def unchanged(image: np.ndarray) -> np.ndarray:
    return image


LOADERS: dict[str, Callable[[Stream, np.ndarray, Files], Iterator[np.ndarray]]] = {
    "ours": ours,
    "PIL, uint8": partial(pil, finish=unchanged),
    "PIL, normalised": partial(pil, finish=normalised),
}


def rates(batches: Iterator[np.ndarray]) -> Rates:
    """The rates at which a loader yields batches, timed after the first one."""
    next(batches)
    wall, processor = time.perf_counter(), time.process_time()
    images = sum(batch.shape[-4] for batch in batches)
    return images / (time.perf_counter() - wall), images / (time.process_time() - processor)


def measure(config: ConfigDict) -> list[Row]:
    """A row for every one of `LOADERS`, timed in turn."""
    settings.check(config)
    stream = plan.load(config, jax.local_devices()).train
    if not isinstance(stream, Stream):
        raise UserError(f"{config.data.name} is not streamed: give --config=configs/imagenet.py")
    files = contents(stream)
    rng = np.random.default_rng(0)
    index = rng.integers(0, len(files), (BATCHES.value + 1, BATCH.value)).astype(np.int32)
    found: dict[str, list[Rates]] = {name: [] for name in LOADERS}
    for _ in range(ROUNDS.value):
        for name, load in LOADERS.items():
            found[name].append(rates(load(stream, index, files)))
    return [loader_row(name, found[name], found["ours"]) for name in LOADERS]


def loader_row(name: str, found: Sequence[Rates], ours: Sequence[Rates]) -> Row:
    """A loader's medians over the rounds; `ratio` is the `per_core` of "ours" over the loader's."""
    wall, per_core = (round(statistics.median(values), 1) for values in zip(*found, strict=True))
    ratios = [own / other for (_, own), (_, other) in zip(ours, found, strict=True)]
    ratio = round(statistics.median(ratios), 2)
    return {"loader": name, "images_per_s": wall, "per_core": per_core, "ratio": ratio}


if __name__ == "__main__":
    command.run(measure)
