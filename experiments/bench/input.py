r"""How fast images are read, decoded and cut for training: by this package, and by PIL as PyTorch's loaders do it.

    python -m experiments.bench.input --config=configs/imagenet.py --config.data.data_dir=DIR

Both see the same records of the training split. `per_core` is images per second of processor time, so neither gains by
the number of cores, and other work on the machine counts less. What a step takes away is in `experiments.bench.benchmark`.
"""

import io
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict
from PIL import Image

from experiments.bench import benchmark
from experiments.bench.benchmark import ROUNDS, Row
from sskd_jax import main as cli
from sskd_jax import settings, train
from sskd_jax.data.stream import Framing, Stream
from sskd_jax.types import UserError

BATCHES = flags.DEFINE_integer(
    "batches", 64, "Batches per timing, besides a first one.", lower_bound=1
)
BATCH = flags.DEFINE_integer("batch", 64, "Images per batch.", lower_bound=1)

MEAN, STD = (
    np.float32(value).reshape(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)


def ours(stream: Stream, index: np.ndarray, files: Sequence[bytes]) -> Iterator[np.ndarray]:
    """uint8 batches, as they go to the device."""
    return (
        rows.image
        for rows in stream.batches(index[None], 0, np.arange(index.size).reshape(1, *index.shape))
    )


def pil(
    stream: Stream,
    index: np.ndarray,
    files: Sequence[bytes],
    finish: Callable[[np.ndarray], np.ndarray],
) -> Iterator[np.ndarray]:
    """The same in one thread. It gets the files' contents for nothing, where ours reads the records."""
    return (
        np.stack([finish(pil_image(files[i], stream.framing)) for i in batch]) for batch in index
    )


def contents(stream: Stream) -> list[bytes]:
    """The first JPEG files of a split, no more than are timed."""
    from sskd_jax.data import jpeg

    records = stream.records.__getitems__(stream.row[: BATCHES.value * BATCH.value])
    return [jpeg.parse(record)[0].numpy() for record in records]


def pil_image(content: bytes, framing: Framing) -> np.ndarray:
    """Decode, convert, cut at random, resize and mirror: uint8[size, size, 3]."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image = image.crop(pil_box(*image.size, framing)).resize(
        (framing.size, framing.size), Image.BILINEAR
    )
    return np.asarray(image.transpose(Image.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image)


def pil_box(width: int, height: int, framing: Framing) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the first of ten random boxes that fits, or of the whole image."""
    for _ in range(10):
        area = width * height * random.uniform(*framing.scale)
        shape = math.exp(random.uniform(*map(math.log, framing.ratio)))
        box_width, box_height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = random.randint(0, width - box_width), random.randint(0, height - box_height)
            return left, top, left + box_width, top + box_height
    return 0, 0, width, height


def normalised(image: np.ndarray) -> np.ndarray:
    """f32[3, size, size], which PyTorch's loaders compute on the host and here the device does."""
    return (image.transpose(2, 0, 1).astype(np.float32) / 255 - MEAN) / STD


LOADERS: dict[str, Callable[[Stream, np.ndarray, Sequence[bytes]], Iterator[np.ndarray]]] = {
    "ours": ours,
    "PIL, uint8": partial(pil, finish=lambda image: image),
    "PIL, normalised": partial(pil, finish=normalised),
}


def rates(load: Callable[[], Iterator[np.ndarray]]) -> tuple[float, float]:
    """Images per second, and per second of processor time, once the first batch is there."""
    batches = load()
    next(batches)
    wall, processor = time.perf_counter(), time.process_time()
    images = sum(batch.shape[-4] for batch in batches)
    return images / (time.perf_counter() - wall), images / (time.process_time() - processor)


def measure(config: ConfigDict) -> list[Row]:
    settings.check(config)
    stream = train.load_data(config)[1]
    if not isinstance(stream, Stream):
        raise UserError(f"{config.data.name} is not streamed: give --config=configs/imagenet.py")
    files = contents(stream)
    index = (
        np.random.default_rng(0)
        .integers(0, len(files), (BATCHES.value + 1, BATCH.value))
        .astype(np.int32)
    )
    found = {name: [] for name in LOADERS}
    for _ in range(ROUNDS.value):
        for name, load in LOADERS.items():
            found[name].append(rates(lambda load=load: load(stream, index, files)))
    return [row(name, found[name], found["ours"]) for name in LOADERS]


def row(
    name: str, found: Sequence[tuple[float, float]], ours: Sequence[tuple[float, float]]
) -> Row:
    """Medians over the rounds; `ratio` is how many times as many images per core ours has."""
    wall, per_core = (round(statistics.median(values), 1) for values in zip(*found, strict=True))
    ratio = statistics.median(mine[1] / other[1] for mine, other in zip(ours, found, strict=True))
    return {"loader": name, "images_per_s": wall, "per_core": per_core, "ratio": round(ratio, 2)}


if __name__ == "__main__":
    app.run(partial(benchmark.main, measure=measure), flags_parser=cli.parse)
