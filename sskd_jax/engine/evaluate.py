"""Scores over a whole split: sums and counts on the devices, divided once, at the end."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sskd_jax.axis import everywhere
from sskd_jax.data.sources import Split
from sskd_jax.data.stream import Stream
from sskd_jax.engine.devices import Mapped, local_positions, unreplicate
from sskd_jax.engine.task import Frozen, Task, gather_examples, net_functions, viewer
from sskd_jax.types import Array, Batch, Binned, Params, Streamed, Terms, UserError


def batch_scores(
    task: Task, variables: Params, frozen: Frozen, index: Array | Streamed, mask: Array
) -> tuple[Array, Terms]:
    """The number of images that count in a whole batch, and {name: [sum, count]} of every score.

    Args:
      variables: {"params", "batch_stats"} of the nets that are not frozen, by net.
      index: [n], this device's examples.
      mask: bool[n], whether they count.
    """
    image, label, index = gather_examples(frozen, index)
    label, index, mask = everywhere((label, index, mask))
    see = viewer(task.optics.plain(), frozen.key, image)
    batch = Batch(image=image, label=label, index=index, see=see, counts=task.counts, mask=mask)
    functions, _ = net_functions(task, {**frozen.nets, **variables})
    scores = task.stage.scores(functions, batch)
    return mask.sum(), {name: masked_sum(name, score, mask) for name, score in scores.items()}


def masked_sum(name: str, score: Array | tuple[Array, Array] | Binned, mask: Array) -> Array:
    """[sum, count] of a score [N * r] over the images that mask [N] marks.

    In a pair of a score and a bool[N * r], only the rows that the latter marks count. A `Binned`
    score gives [2, bins]: the sum in each bin, and the count of all rows, repeated for each bin.

    Raises:
      UserError: the score has another shape.
    """
    place, bins, some = None, 0, True
    if isinstance(score, Binned):
        score, place, bins = score
    elif isinstance(score, tuple):
        score, some = score
    if score.ndim != 1 or not score.size or score.size % mask.size:
        raise UserError(
            f"the score {name!r} of {mask.size} images is {list(score.shape)}: give as many "
            "numbers for each image"
        )
    rows = jnp.repeat(mask, score.size // mask.size) & some
    counted = jnp.where(rows, score.astype(jnp.float32), 0)
    total = jax.ops.segment_sum(counted, place, bins) if bins else jnp.sum(counted)
    return jnp.stack([total, jnp.broadcast_to(jnp.sum(rows), total.shape)])


def split_scores(
    task: Task, variables: Params, frozen: Frozen, batches: tuple[Any, Array]
) -> tuple[Array, Terms]:
    """The sums of `batch_scores` over the b batches in `batches`: (index [b, n], mask [b, n])."""

    def scores(i: Array | int) -> tuple[Array, Terms]:
        index, mask = jax.tree.map(lambda leaf: leaf[i], batches)
        return batch_scores(task, variables, frozen, index, mask)

    shapes = jax.eval_shape(scores, 0)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add_batch(i: Array, sums: tuple[Array, Terms]) -> tuple[Array, Terms]:
        return jax.tree.map(jnp.add, sums, scores(i))

    return lax.fori_loop(0, batches[1].shape[0], add_batch, zeros)


def padded_batches(size: int, batch_size: int, devices: int) -> tuple[np.ndarray, np.ndarray]:
    """(index, mask) [devices, batches, n] of `size` images in order.

    The last batch is filled up with copies of the last image, for which the mask is False.
    """
    count = -(-size // batch_size)
    place = np.arange(count * batch_size, dtype=np.int32).reshape(count, devices, -1)
    place = place.swapaxes(0, 1)
    return np.minimum(place, size - 1), place < size


Evaluate = Callable[[Params, Frozen, Split | Stream], dict[str, float]]


def evaluation(task: Task, devices: Sequence[jax.Device], batch_size: int) -> Evaluate:
    """(stacked variables, stacked frozen, split) -> the mean of every score over the split.

    The resident arrays of the split must be in `frozen`. A score that counts in no row of the
    split, such as that of a group of classes without test images, is left out.

    Raises:
      UserError: the first score, by which epochs are compared, counts in no row.
    """
    if not task.scores:
        return lambda variables, frozen, split: {}

    @cache
    def program(resident: int) -> Mapped:
        """The program for splits with so many resident images, for each of which it is compiled."""
        return Mapped(partial(split_scores, task), devices)

    def evaluate(variables: Params, frozen: Frozen, split: Split | Stream) -> dict[str, float]:
        index, mask = padded_batches(split.size, batch_size, len(devices))
        own, scores = local_positions(devices), program(frozen.image.shape[1])
        total, queued = None, None
        for batches in split.in_order(index[own], mask[own]):
            # The next batches are queued before the sums of these are waited for.
            done, queued = queued, scores(variables, frozen, batches)
            total = add(total, done)
        images, sums = add(total, queued)
        assert images == split.size, f"evaluated {images} of {split.size} images"
        found = {name: mean(*sums[name]) for name in task.scores if np.all(sums[name][1])}
        first, *_ = task.scores
        if first not in found:
            raise UserError(
                f"no image of the split has the score {first!r}, by which epochs are compared: "
                "have the method name another one first"
            )
        return found

    return evaluate


def add(total: Any, sums: Any) -> Any:
    """The total, which is on the host, plus the sums on the devices; waits until they are ready."""
    if sums is None:
        return total
    sums = unreplicate(sums)
    return sums if total is None else jax.tree.map(np.add, total, sums)


def mean(total: np.ndarray, count: np.ndarray) -> float:
    """The mean of a score over its rows; for a `Binned` one, the bins' sum of |total / count|."""
    return float(np.abs(total / count).sum() if np.ndim(total) else total / count)
