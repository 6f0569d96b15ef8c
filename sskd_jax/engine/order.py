"""Which images a step sees: a function of the seed, the kind of stage and the epoch alone."""

import zlib

import jax
import numpy as np

from sskd_jax.types import Array, UserError


def stage_seed(seed: int, kind: str) -> list[int]:
    """The seed of a stage's order, such that the students of all methods see the same order."""
    return [seed, zlib.crc32(kind.encode())]


def stage_key(seed: int, kind: str) -> Array:
    """The key u32[2] of everything random in the steps of a stage."""
    return jax.random.fold_in(jax.random.PRNGKey(seed), stage_seed(seed, kind)[1])


def check_positions(visited: np.ndarray, size: int) -> None:
    """Raises a `UserError` if an epoch's order is not a row of positions among `size` images."""
    is_row = visited.ndim == 1 and visited.dtype.kind in "iu"
    if not is_row or visited.size and not 0 <= visited.min() <= visited.max() < size:
        raise UserError(
            f"an epoch's order is {visited.dtype}{list(visited.shape)}: let it be positions of "
            f"images, whole numbers from 0 to {size - 1} in one row"
        )


def shard_epoch(numbers: np.ndarray, steps: int, batch_size: int, devices: int) -> np.ndarray:
    """The first `steps * batch_size` of `numbers`, as i32[devices, steps, n].

    Every step takes the next `batch_size` of them, divided among the devices. The remaining
    numbers are left out.

    Raises:
      UserError: there are too few numbers.
    """
    if len(numbers) < steps * batch_size:
        raise UserError(
            f"an epoch's order has {len(numbers)} images, too few for {steps} steps of "
            f"{batch_size}: all epochs must have as many as the first"
        )
    sharded = numbers[: steps * batch_size].reshape(steps, devices, -1)
    return sharded.swapaxes(0, 1).astype(np.int32)
