"""One stage of training: restore, epochs of dispatches, evaluation, checkpoints."""
import json
import pathlib
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sskd_jax import checkpoint
from sskd_jax.console import StageProgress, console
from sskd_jax.data.sources import Split
from sskd_jax.devices import replicated
from sskd_jax.evaluate import Variables, evaluation
from sskd_jax.logbook import Logbook
from sskd_jax.step import Frozen, Task, TrainState, initial_state, train_program
from sskd_jax.types import Array, UserError

DISPATCH_SECONDS = 1.0  # work per dispatch: long enough to hide its cost, short enough to show progress
SAVE_SECONDS = 300.0  # between two checkpoints within an epoch


class Stage(NamedTuple):
    """A stage and where it lives.

    Attributes:
      name: as in metrics.jsonl, such as "teacher" or "sskd/student"; also its folder below the workdir.
      about: what its checkpoints belong to; a folder with another description is refused.
      frozen: the images to train on, the teacher, and parameters from earlier stages.
      held_out: images to evaluate with after every epoch.
      held_out_name: "test" or "validation".
    """

    name: str
    about: dict[str, Any]
    task: Task
    frozen: Frozen
    held_out: Split
    held_out_name: str
    epochs: int
    batch_size: int
    learning_rate: Any
    seed: int

    @property
    def total_steps(self) -> int:
        return self.epochs * self.task.steps_per_epoch


class Trained(NamedTuple):
    """(params, batch_stats) of the last and of the best epoch, counted from 1."""

    last: Variables
    best: Variables
    best_epoch: int


def stage_seed(seed: int, name: str) -> list[int]:
    """Random numbers depend on the kind of stage: the students of all methods see the same images in the same order."""
    return [seed, zlib.crc32(name.rsplit("/")[-1].encode())]


def stage_key(seed: int, name: str) -> Array:
    return jax.random.fold_in(jax.random.key(seed), stage_seed(seed, name)[1])


def epoch_order(stage: Stage, epoch: int, devices: int) -> np.ndarray:
    """The images of an epoch's steps, i32[devices, steps, n]: a permutation that (seed, kind of stage, epoch) decide.

    What does not fill a batch is left out, and is drawn again in another epoch.
    """
    steps = stage.task.steps_per_epoch
    order = np.random.default_rng([*stage_seed(stage.seed, stage.name), epoch]).permutation(stage.frozen.label.size)
    order = order[:steps * stage.batch_size].reshape(steps, devices, -1)
    return order.swapaxes(0, 1).astype(np.int32)


class Dispatcher:
    """Runs steps, as many per dispatch as take about a second, and queues a dispatch before the last one is done."""

    def __init__(self, task: Task, devices: Sequence[jax.Device]):
        self.program, self.steps = train_program(task, devices), 1

    def run(self, state: TrainState, frozen: Frozen, order: np.ndarray,
            start: int) -> Iterator[tuple[int, TrainState]]:
        """Yields (steps of the epoch that are done or queued, state) after every dispatch."""
        total, pending = order.shape[1], None
        while start < total:
            began, stop = time.perf_counter(), min(start + self.steps, total)
            state, sums = self.program(state, frozen, order, start, stop)
            if pending is not None:
                jax.block_until_ready(pending[0])
                seconds = (time.perf_counter() - began) / pending[1]
                self.steps = int(np.clip(DISPATCH_SECONDS / seconds, 1, 2 * self.steps))
            pending, start = (sums, stop - start), stop
            yield stop, state
        jax.block_until_ready(pending)


def describe(folder: pathlib.Path, about: dict[str, Any]) -> None:
    """Writes down what the checkpoints of a folder belong to."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "stage.json").exists():
        (folder / "stage.json").write_text(json.dumps(about, indent=2) + "\n")


def check_description(folder: pathlib.Path, about: dict[str, Any], advice: str) -> None:
    """Refuses checkpoints that belong to something else than `about`."""
    written = json.loads((folder / "stage.json").read_text())
    for key, value in about.items():
        if written.get(key) != value:
            raise UserError(f"{folder} was trained with {key} {written.get(key)}, and this run has {value}: {advice}")


def load_stage(path: pathlib.Path, kind: str, about: dict[str, Any]) -> dict[str, Any]:
    """The last state, as nested dicts, of the finished stage of this kind in a workdir, or in its own folder.

    Raises:
      UserError: there is none, it is not finished, or it does not belong to what `about` describes.
    """
    candidates = (path, path / kind, *sorted(path.glob(f"*/{kind}")))
    folders = [folder for folder in candidates if (folder / "stage.json").exists()]
    if not folders:
        raise UserError(f"{path} holds no {kind}: give a workdir of a run that trained one")
    check_description(folders[0], about, f"give the config that it was trained with, or another {kind}")
    with checkpoint.manager(folders[0]) as manager:
        step, steps = manager.latest_step(), json.loads((folders[0] / "stage.json").read_text())["steps"]
        if step != steps:
            raise UserError(f"{folders[0]} is at step {step or 0} of {steps}: finish that run first")
        return checkpoint.restore(manager, step)


def run_stage(stage: Stage, workdir: pathlib.Path, book: Logbook, devices: Sequence[jax.Device]) -> Trained:
    """Trains a stage from its newest checkpoint, or from the start, to its end; a finished one is only loaded."""
    folder = workdir / stage.name
    describe(folder, stage.about)
    check_description(folder, stage.about, "give another --workdir, or delete the folder to train it again")
    manager = checkpoint.manager(folder)
    state = initial_state(stage.task, stage_key(stage.seed, stage.name), stage.frozen)
    try:
        if (step := manager.latest_step()) is not None:
            state = checkpoint.restore(manager, step, state)
            console.print(f"{stage.name}  {'done' if step == stage.total_steps else 'goes on'} at step {step}")
        if int(state.step) < stage.total_steps:
            train(stage, state, manager, book, devices)
        manager.wait_until_finished()
        last, best = (checkpoint.restore(manager, step) for step in (manager.latest_step(), manager.best_step()))
    finally:
        manager.close()
    return Trained(variables(last), variables(best), int(best["step"]) // stage.task.steps_per_epoch)


def variables(state: Mapping[str, Any]) -> Variables:
    return state["params"], state["batch_stats"]


def train(stage: Stage, state: TrainState, manager: Any, book: Logbook, devices: Sequence[jax.Device]) -> None:
    """From `state` to the last epoch: after every epoch an evaluation, a row in the logbook and a checkpoint."""
    steps, step = stage.task.steps_per_epoch, int(state.step)
    book.rewind(stage.name, step)
    state, frozen = (replicated(tree, devices) for tree in (state, stage.frozen))
    held_out = frozen._replace(**replicated(stage.held_out._asdict(), devices))
    evaluate = evaluation(stage.task, devices, stage.batch_size)
    dispatcher, saved = Dispatcher(stage.task, devices), time.monotonic()
    with StageProgress(stage.name, step, stage.total_steps, stage.batch_size) as progress:
        for epoch in range(step // steps, stage.epochs):
            order = epoch_order(stage, epoch, len(devices))
            for done, state in dispatcher.run(state, frozen, order, step % steps):  # noqa: B020
                step = epoch * steps + done
                progress.advance(step)
                if done < steps and time.monotonic() - saved > SAVE_SECONDS:
                    checkpoint.save(manager, step, state)
                    saved = time.monotonic()
            progress.evaluating()
            figures = epoch_figures(stage, state, evaluate((state.params, state.batch_stats), held_out))
            book.write({"stage": stage.name, "epoch": epoch + 1, "step": step, "learning_rate":
                        float(stage.learning_rate(step - 1)), **figures})
            checkpoint.save(manager, step, state, headline(stage, figures))
            saved = time.monotonic()
            progress.epoch(epoch + 1, stage.epochs, figures)


def epoch_figures(stage: Stage, state: TrainState, scores: dict[str, float]) -> dict[str, float]:
    """The epoch's means: of the loss, its terms and figures under train/, of the evaluation under its split's name."""
    sums = jax.device_get(jax.tree.map(lambda leaf: leaf.addressable_data(0), state.sums))
    return ({f"train/{name}": float(total[0]) / stage.task.steps_per_epoch for name, total in sums.items()}
            | {f"{stage.held_out_name}/{name}": value for name, value in scores.items()})


def headline(stage: Stage, figures: dict[str, float]) -> float:
    """The figure by which epochs are compared: top-1 accuracy, or where no network learns, the head's own accuracy."""
    top1 = f"{stage.held_out_name}/top1"
    return figures[top1 if top1 in figures else f"{stage.held_out_name}/contrastive"]
