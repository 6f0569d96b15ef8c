"""The checkpoints of a stage: orbax with a checksum, the last two and the best kept, damaged ones set aside."""

import contextlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization
from orbax.checkpoint import options
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from sskd_jax.system.console import console
from sskd_jax.system.paths import locate
from sskd_jax.system.quiet import quiet
from sskd_jax.types import UserError


def checksum(tree: Any) -> int:
    """Of all arrays and their names."""
    crc = 0
    for path, leaf in jax.tree.leaves_with_path(tree):
        crc = zlib.crc32(
            np.ascontiguousarray(leaf).tobytes(),
            zlib.crc32(jax.tree_util.keystr(path).encode(), crc),
        )
    return crc


def score_record(score: float) -> dict[str, float]:
    """What stands beside a checkpoint for orbax to compare it by."""
    return {"score": score, "checksum": zlib.crc32(repr(score).encode())}


class Checkpoints:
    """Those in one folder, which is there and of which this process alone knows. Close it before exit.

    Raises:
      UserError: none of the checkpoints that are there is whole, or the disk does not take another.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = locate(folder)
        for step in _steps(self.folder):
            if _without_content(self.folder / str(step)):
                self._set_aside(step)
        self.manager = _manager(self.folder)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        with (
            contextlib.suppress(Exception) if kind else self._writing()
        ):  # the first error is the one to see
            self.manager.close()

    def save(self, state: Any, score: float | None = None) -> None:
        """Writes `state` with its field `step`, on the host, in the background; what is there already stays."""
        content = serialization.to_state_dict(state)
        step = int(content["step"])
        if step == self.manager.latest_step():
            return
        args = ocp.args.StandardSave({"state": content, "checksum": np.uint32(checksum(content))})
        with self._writing():
            self.manager.save(
                step, args=args, metrics=None if score is None else score_record(score)
            )

    def wait(self) -> None:
        with self._writing():
            self.manager.wait_until_finished()

    def newest(self) -> dict[str, Any] | None:
        """The state as nested dicts, or None where none was saved."""
        return self._whole(lambda: self.manager.latest_step())

    def best(self) -> dict[str, Any] | None:
        return self._whole(lambda: self.manager.best_step())

    def _whole(self, pick: Callable[[], int | None]) -> dict[str, Any] | None:
        """The first checkpoint that `pick` gives and that is whole."""
        self.wait()
        while (step := pick()) is not None:
            if (state := _read_whole(self.folder / str(step))) is not None:
                return state
            self.manager.close()
            self._set_aside(step)
            self.manager = _manager(self.folder)
        return None

    def _set_aside(self, step: int) -> None:
        """Renames a damaged checkpoint, so that the one before it is the newest."""
        damaged = self.folder / str(step)
        if _steps(self.folder) == [step]:
            raise UserError(
                f"the checkpoint {damaged} is damaged and there is no other: put a copy of it back, or "
                f"delete {self.folder} to train this stage again"
            )
        (self.folder / f"damaged-{step}").rmtree(missing_ok=True)
        damaged.rename(self.folder / f"damaged-{step}")
        console.print(
            f"the checkpoint {damaged} is damaged: it is now called damaged-{step}, and another one is used"
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What the disk refuses is told when the next checkpoint is written, or the last one is waited for."""
        try:
            yield
        except (OSError, ValueError) as error:
            refused = re.search(r": ([^:]*) \[os_error_code", str(error))
            reason = refused[1] if refused else getattr(error, "strerror", None) or error
            raise UserError(
                f"cannot write a checkpoint to {self.folder} ({reason}): make room, then type the same "
                "command again; it goes on from the checkpoint before"
            ) from error


def read_newest(folder: epath.Path) -> dict[str, Any] | None:
    """The newest state in a folder that may be another run's: nothing in it is changed.

    Raises:
      UserError: it is damaged.
    """
    if not (steps := _steps(folder)):
        return None
    newest = folder / str(steps[-1])
    if (state := _read_whole(newest)) is None:
        raise UserError(
            f"the checkpoint {newest} is damaged: put a copy of it back, or run what made it once more"
        )
    return state


def _without_content(checkpoint: epath.Path) -> bool:
    """Whether a checkpoint is damaged in a way that would stop orbax from opening the folder."""
    try:
        record = checkpoint / "metrics" / "metrics"
        scored = json.loads(record.read_text()) if record.parent.is_dir() else score_record(0.0)
        return scored != score_record(scored["score"]) or not (checkpoint / "default").is_dir()
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _steps(folder: epath.Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def _read_whole(checkpoint: epath.Path) -> dict[str, Any] | None:
    """Its state as nested dicts, or None where it is damaged."""
    with (
        quiet(),
        contextlib.suppress(Exception),
    ):  # whatever damage provokes in orbax and tensorstore
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
            stored = reader.restore(locate(checkpoint) / "default")
        if checksum(stored["state"]) == stored["checksum"]:
            return stored["state"]
    return None


def _manager(folder: epath.Path) -> ocp.CheckpointManager:
    """Keeps the two newest checkpoints and, of those that came with a score, the best."""

    def score(record: dict[str, float]) -> float:
        return record["score"]

    best = keep.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            best_fn=score,
            preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(2), best]),
            create=False,
            cleanup_tmp_directories=True,
            multiprocessing_options=_alone(),
        ),
    )


def _alone() -> options.MultiprocessingOptions:
    """Orbax would have all processes meet at every checkpoint, but the others never come."""
    me = jax.process_index()
    return options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=str(me)
    )
