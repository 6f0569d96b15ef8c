"""A stage's checkpoints, written by orbax with a checksum; the last two and the best are kept."""

import contextlib
import errno
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
from orbax.checkpoint.checkpoint_managers import preservation_policy

from sskd_jax.system.console import console
from sskd_jax.system.paths import check_no_pattern, check_same, is_remote, locate
from sskd_jax.system.quiet import quiet
from sskd_jax.types import UserError

# Errors that have other causes than a damaged file.
OF_THE_MACHINE = (
    errno.EACCES,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOTCONN,
    errno.EPERM,
    errno.ESTALE,
    errno.ETIMEDOUT,
)
OF_A_BUCKET = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNAUTHENTICATED", "PERMISSION_DENIED")


def checksum(tree: Any) -> int:
    """CRC-32 over the path and the bytes of every leaf."""
    crc = 0
    for path, leaf in jax.tree.leaves_with_path(tree):
        crc = zlib.crc32(jax.tree_util.keystr(path).encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), crc)
    return crc


def score_record(score: float) -> dict[str, float]:
    """The metrics of a checkpoint for orbax, which compares checkpoints by "score"."""
    return {"score": score, "checksum": zlib.crc32(repr(score).encode())}


class Checkpoints:
    """The checkpoints in a folder, used as a context manager.

    The folder must exist, and this process must be the only one that uses it. A damaged checkpoint
    is renamed, and another one is used.

    Raises:
      UserError: all checkpoints are damaged, or a new one can't be written.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = locate(folder)
        for step in _steps(self.folder):
            if _without_content(self.folder / str(step)):
                self._set_aside(step)
        self.manager = _manager(self.folder)
        self.opened = None if is_remote(self.folder) else os.open(self.folder, os.O_RDONLY)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            # If something has failed already, that first error is the one to show.
            with contextlib.suppress(Exception) if kind else self._write_errors():
                self.manager.close()
        finally:
            if self.opened is not None:
                os.close(self.opened)

    def save(self, state: Any, score: float | None = None) -> None:
        """Writes a state in the background, unless the newest checkpoint has the same step.

        Args:
          state: a pytree on the host with a field `step`.
          score: the best checkpoint is the one with the highest; None: it can't be the best.

        Raises:
          UserError: it can't be written; or the folder was deleted or replaced, so that it may now
            belong to another run.
        """
        self._check_folder()
        content = serialization.to_state_dict(state)
        step = int(content["step"])
        if step == self.manager.latest_step():
            return
        args = ocp.args.StandardSave({"state": content, "checksum": np.uint32(checksum(content))})
        metrics = None if score is None else score_record(score)
        with self._write_errors():
            self.manager.save(step, args=args, metrics=metrics)

    def _check_folder(self) -> None:
        """Checks that the folder is the one that was opened."""
        if self.opened is not None:
            check_same(self.opened, self.folder, self.folder)

    def wait(self) -> None:
        """Waits until everything is written."""
        with self._write_errors():
            self.manager.wait_until_finished()

    def newest(self) -> dict[str, Any] | None:
        """The newest undamaged state, as nested dicts; None if none was saved."""
        return self._first_whole(ocp.CheckpointManager.latest_step)

    def best(self) -> dict[str, Any] | None:
        """The undamaged state with the best score, as nested dicts; None if none has a score."""
        return self._first_whole(ocp.CheckpointManager.best_step)

    def _first_whole(
        self, pick: Callable[[ocp.CheckpointManager], int | None]
    ) -> dict[str, Any] | None:
        """The state at the step that `pick` chooses, after damaged checkpoints are renamed."""
        self.wait()
        while (step := pick(self.manager)) is not None:
            if (state := _read_whole(self.folder / str(step))) is not None:
                return state
            self.manager.close()
            self._set_aside(step)
            self.manager = _manager(self.folder)
        return None

    def _set_aside(self, step: int) -> None:
        """Renames a damaged checkpoint and prints it; a `UserError` if no other one is whole.

        If none is, the reason may be another than damage, so all of them stay as they are.
        """
        damaged = self.folder / str(step)
        others = (other for other in _steps(self.folder) if other != step)
        if all(_read_whole(self.folder / str(other)) is None for other in others):
            raise UserError(
                f"the checkpoint {damaged} is damaged and no other is whole: put a copy of it "
                f"back, or delete {self.folder} to train this stage again"
            )
        (self.folder / f"damaged-{step}").rmtree(missing_ok=True)
        damaged.rename(self.folder / f"damaged-{step}")
        console.print(
            f"the checkpoint {damaged} is damaged: it is now called damaged-{step}, and another "
            "one is used"
        )

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Turns write errors, which orbax raises at the next save or wait, into one line."""
        try:
            yield
        except (OSError, ValueError) as error:
            self._check_folder()
            refused = re.search(r": ([^:]*) \[os_error_code", str(error))
            reason = refused[1] if refused else getattr(error, "strerror", None) or error
            raise UserError(
                f"cannot write a checkpoint to {self.folder} ({reason}): mend that or make room, "
                "then type the same command again; it goes on from the checkpoint before"
            ) from error


def read_newest(folder: epath.Path) -> dict[str, Any] | None:
    """The newest state in a folder, as nested dicts; None if there is none.

    Nothing in the folder is changed, as it may belong to another run.

    Raises:
      UserError: the newest checkpoint is damaged, or its path is one that orbax can't read.
    """
    check_no_pattern(folder)
    if not (steps := _steps(folder)):
        return None
    return _read(folder / str(steps[-1]))


def read_step(folder: epath.Path, step: int) -> dict[str, Any]:
    """The state of a step in a folder, as nested dicts; nothing in the folder is changed.

    Raises:
      UserError: there is none any more, or it is damaged.
    """
    if step not in _steps(folder):
        raise UserError(f"{folder} has no checkpoint of step {step} any more")
    return _read(folder / str(step))


def _read(checkpoint: epath.Path) -> dict[str, Any]:
    if (state := _read_whole(checkpoint)) is None:
        raise UserError(
            f"the checkpoint {checkpoint} is damaged: put a copy of it back, or run what made it "
            "once more"
        )
    return state


def has_checkpoints(folder: epath.Path) -> bool:
    """Whether a stage has a checkpoint; if not, it may begin again with another config."""
    return bool(_steps(folder))


def _without_content(checkpoint: epath.Path) -> bool:
    """Whether a checkpoint is so damaged that orbax could not even open the folder around it."""
    metrics = checkpoint / "metrics" / "metrics"
    try:
        if metrics.parent.is_dir():
            record = json.loads(metrics.read_text())
            if record != score_record(record["score"]):
                return True
        return not (checkpoint / "default").is_dir()
    except (OSError, ValueError, KeyError, TypeError) as error:
        _check_machine(checkpoint, error)
        return True


def _steps(folder: epath.Path) -> list[int]:
    """The steps of the finished checkpoints in a folder, in order: 0, 7 or 10, not 00 or 07."""
    names = [path.name for path in folder.iterdir()]
    for name in names:
        if name[0] in "123456789" and name.isdecimal() and not name.isascii():
            raise UserError(f"{folder / name} is no checkpoint of ours: move it elsewhere")
    steps = sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))
    # In a bucket, one that is being written already has its name, and is marked at the end.
    return [step for step in steps if ocp.utils.is_checkpoint_finalized(folder / str(step))]


def _read_whole(checkpoint: epath.Path) -> dict[str, Any] | None:
    """The state in a checkpoint, as nested dicts; None if it is damaged."""
    try:
        with quiet(), ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
            stored = reader.restore(locate(checkpoint) / "default")
        return stored["state"] if checksum(stored["state"]) == stored["checksum"] else None
    except Exception as error:  # a damaged file can cause any error in orbax and tensorstore
        _check_machine(checkpoint, error)
        return None


def _check_machine(checkpoint: epath.Path, error: Exception) -> None:
    """Raises a `UserError` for an error of the machine, which says nothing about the files."""
    told = re.search(r"os_error_code='(\d+)'", str(error))  # by tensorstore
    code = int(told[1]) if told else getattr(error, "errno", None)
    if code in OF_THE_MACHINE:
        reason = os.strerror(code)
    elif isinstance(error, MemoryError) or str(error).startswith(OF_A_BUCKET):
        reason = f"{type(error).__name__} {error}".strip()
    else:
        return
    raise UserError(
        f"the checkpoint {checkpoint} can't be read now ({reason}): mend that, then type the same "
        "command again"
    ) from error


def _manager(folder: epath.Path) -> ocp.CheckpointManager:
    """Orbax's manager of a folder, which keeps only the two newest checkpoints and the best.

    A checkpoint without a score is never the best.
    """

    def score(record: dict[str, float]) -> float:
        return record["score"]

    newest = preservation_policy.LatestN(2)
    best = preservation_policy.BestN(
        get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False
    )
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            best_fn=score,
            preservation_policy=preservation_policy.AnyPreservationPolicy([newest, best]),
            create=False,
            cleanup_tmp_directories=True,
            multiprocessing_options=_alone(),
        ),
    )


def _alone() -> options.MultiprocessingOptions:
    """Options of orbax for a single writing process; by default it waits for all processes."""
    own = jax.process_index()
    return options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=str(own)
    )
