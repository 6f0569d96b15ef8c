"""One stage of training: restore, epochs of dispatches, evaluation, checkpoints."""

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from etils import epath
from flax import serialization

from sskd_jax.data.sources import Split
from sskd_jax.data.stream import Feed, Stream
from sskd_jax.engine.devices import agree, chief, first, mine, replicated, told_by_chief
from sskd_jax.engine.evaluate import Variables, evaluation
from sskd_jax.engine.step import Frozen, Task, TrainState, initial_state, train_program
from sskd_jax.system.console import StageProgress, console
from sskd_jax.system.interruption import Interruption
from sskd_jax.types import Array, Params, Stopped, UserError
from sskd_jax.workdir.checkpoint import Checkpoints, read_newest
from sskd_jax.workdir.logbook import Logbook, NoLogbook, read_json, write_json

DISPATCH_SECONDS = (
    1.0  # work per dispatch: long enough to hide its cost, short enough to show progress
)


class Stage(NamedTuple):
    """A stage and where it lives.

    Attributes:
      name: as in metrics.jsonl, such as "teacher" or "sskd/student"; also its folder below the workdir.
      about: what its checkpoints belong to; a folder with another description is refused.
      frozen: what is resident of the images to train on, the teacher, and parameters from earlier stages.
      images: to train on.
      held_out: images to evaluate with after every epoch.
      held_out_name: "test" or "validation".
      start: variables of the student to start from; None: random ones.
    """

    name: str
    about: dict[str, Any]
    task: Task
    frozen: Frozen
    images: Split | Stream
    held_out: Split | Stream
    held_out_name: str
    epochs: int
    batch_size: int
    learning_rate: Any
    seed: int
    start: Params | None = None

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
    return jax.random.fold_in(jax.random.PRNGKey(seed), stage_seed(seed, name)[1])


def epoch_order(stage: Stage, epoch: int, devices: int) -> np.ndarray:
    """The images of an epoch's steps, i32[devices, steps, n]: a permutation that (seed, kind of stage, epoch) decide.

    What does not fill a batch is left out, and is drawn again in another epoch.
    """
    return dealt(
        np.random.default_rng(epoch_seed(stage, epoch)).permutation(stage.images.size),
        stage,
        devices,
    )


def epoch_seed(stage: Stage, epoch: int) -> list[int]:
    return [*stage_seed(stage.seed, stage.name), epoch]


def dealt(numbers: np.ndarray, stage: Stage, devices: int) -> np.ndarray:
    """The first of the numbers as i32[devices, steps, n]: a step takes a batch of them, a device its part of each."""
    steps = stage.task.steps_per_epoch
    return (
        numbers[: steps * stage.batch_size]
        .reshape(steps, devices, -1)
        .swapaxes(0, 1)
        .astype(np.int32)
    )


def epoch_feed(stage: Stage, epoch: int, start: int, devices: Sequence[jax.Device]) -> Feed:
    """The dispatches of an epoch from step `start` on, for the devices of this process."""
    order, place = (
        numbers[mine(devices)]
        for numbers in (
            epoch_order(stage, epoch, len(devices)),
            dealt(np.arange(stage.images.size), stage, len(devices)),
        )
    )
    seed = np.random.SeedSequence(epoch_seed(stage, epoch)).generate_state(1)[0]
    return stage.images.epoch(order, place, int(seed), start)


class Session(NamedTuple):
    """Where the stages of a run are trained, and what they share.

    Attributes:
      workdir: of which every stage has a folder.
      devices: of all processes.
      book: the chief's, or one that writes nothing.
      interruption: asked before every dispatch.
      save_seconds: between two checkpoints within an epoch.
    """

    workdir: epath.Path
    devices: Sequence[jax.Device]
    book: Logbook | NoLogbook
    interruption: Interruption
    save_seconds: float


class Dispatcher:
    """Runs steps, as many per dispatch as take about a second, and queues a dispatch before the last one is done."""

    def __init__(self, stage: Stage, session: Session):
        self.program, self.steps = train_program(stage.task, session.devices), 1
        self.stage, self.interruption = stage, session.interruption

    def run(
        self, state: TrainState, frozen: Frozen, feed: Feed, start: int
    ) -> Iterator[tuple[int, TrainState]]:
        """Yields (steps of the epoch that are done or queued, state) after about a second's worth of them.

        Ends with the epoch, or before it where a stop is due.
        """
        total, pending = self.stage.task.steps_per_epoch, []
        while start < total and not self.stop_is_due():
            began, stop, waited = time.perf_counter(), min(start + self.steps, total), 0
            for rows, first_step, last_step in feed(start, stop):
                state, spoiled = self.program(state, frozen, rows, first_step, last_step)
                waited += self.wait(pending)
                pending.append((spoiled, last_step - first_step))
            if waited:
                seconds = (time.perf_counter() - began) / waited
                self.steps = int(np.clip(DISPATCH_SECONDS / seconds, 1, 2 * self.steps))
            start = stop
            yield stop, state
        self.wait(pending)

    def wait(self, pending: list[tuple[dict[str, Array], int]]) -> int:
        """Waits for the dispatch that is pending, if one is; returns its number of steps."""
        if not pending:
            return 0
        spoiled, steps = pending.pop()
        check_finite(self.stage, spoiled)
        return steps

    def stop_is_due(self) -> bool:
        """All processes must stop before the same dispatch, and agree on how long one is."""
        self.steps, due = agree(self.steps, self.interruption.due())
        return bool(due)


def check_finite(stage: Stage, spoiled: dict[str, Array]) -> None:
    """Waits for a dispatch, of which these are the steps that spoiled something, and ends training where one did."""
    found = {name: int(step) for name, step in first(spoiled).items() if step}
    if found:
        step = min(found.values())
        names = ", ".join(name for name in found if found[name] == step)
        raise UserError(
            f"{stage.name} diverged: not finite in step {step}: {names}. The checkpoints before it are "
            "kept; try a lower learning rate in another --workdir"
        )


def describe(folder: epath.Path, about: dict[str, Any]) -> None:
    """Writes down what the checkpoints of a folder belong to."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "stage.json").exists():
        write_json(folder / "stage.json", about)


def check_description(folder: epath.Path, about: dict[str, Any], advice: str) -> None:
    """Refuses checkpoints that belong to something else than `about`."""
    written = read_json(folder / "stage.json")
    for key, value in about.items():
        if written.get(key) != value:
            raise UserError(
                f"{folder} was trained with {key} {written.get(key)}, and this run has {value}: {advice}"
            )


def load_stage(path: epath.Path, kind: str, about: dict[str, Any]) -> dict[str, Any]:
    """The last state, as nested dicts, of the finished stage of this kind in a workdir, or in its own folder.

    Raises:
      UserError: there is none, it is not finished, or it does not belong to what `about` describes.
    """
    candidates = (path, path / kind, *sorted(path.glob(f"*/{kind}")))
    folders = [folder for folder in candidates if (folder / "stage.json").exists()]
    if not folders:
        raise UserError(f"{path} holds no {kind}: give a workdir of a run that trained one")
    check_description(
        folders[0], about, f"give the config that it was trained with, or another {kind}"
    )
    state, steps = read_newest(folders[0]), read_json(folders[0] / "stage.json")["steps"]
    done = int(state["step"]) if state else 0
    if done != steps:
        raise UserError(f"{folders[0]} is at step {done} of {steps}: finish that run first")
    return state


def run_stage(stage: Stage, session: Session) -> Trained:
    """Trains a stage from its newest checkpoint, or from the start, to its end; a finished one is only loaded."""
    begin = partial(
        initial_state, stage.task, stage_key(stage.seed, stage.name), stage.frozen, stage.start
    )
    with (
        open_checkpoints(stage, session.workdir)
        if chief()
        else contextlib.nullcontext() as checkpoints
    ):
        state = (
            restored(checkpoints, Checkpoints.newest, lambda: begin(run=jax.eval_shape)) or begin()
        )
        if step := int(state.step):
            console.print(
                f"{stage.name}  {'done' if step == stage.total_steps else 'goes on'} at step {step}"
            )
        if step < stage.total_steps:
            train(stage, state, checkpoints, session)
        last, best = (
            restored(checkpoints, read, lambda: state)
            for read in (Checkpoints.newest, Checkpoints.best)
        )
    return Trained(variables(last), variables(best), int(best.step) // stage.task.steps_per_epoch)


def open_checkpoints(stage: Stage, workdir: epath.Path) -> Checkpoints:
    folder = workdir / stage.name
    describe(folder, stage.about)
    check_description(
        folder, stage.about, "give another --workdir, or delete the folder to train it again"
    )
    return Checkpoints(folder)


def restored(
    checkpoints: Checkpoints | None,
    read: Callable[[Checkpoints], dict[str, Any] | None],
    shapes: Callable[[], TrainState],
) -> TrainState | None:
    """What the chief reads, in all processes, for a state of these shapes; None where there is nothing."""
    stored = checkpoints and read(checkpoints)
    if not any(agree(bool(stored))):
        return None
    blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes())
    return told_by_chief(serialization.from_state_dict(blank, stored) if stored else blank)


def variables(state: TrainState) -> Variables:
    return state.params, state.batch_stats


def train(
    stage: Stage, state: TrainState, checkpoints: Checkpoints | None, session: Session
) -> None:
    """From `state` to the last epoch: after every epoch an evaluation, a row in the logbook and a checkpoint.

    Raises:
      Stopped: a stop was due; everything is saved.
      UserError: training diverged.
    """
    steps, step = stage.task.steps_per_epoch, int(state.step)
    session.book.rewind(stage.name, step)
    state, frozen = (replicated(tree, session.devices) for tree in (state, stage.frozen))
    held_out = frozen._replace(**replicated(stage.held_out.resident(), session.devices))
    evaluate = evaluation(stage.task, session.devices, stage.batch_size)
    dispatcher, saved = Dispatcher(stage, session), time.monotonic()
    progress = StageProgress(stage.name, step, stage.total_steps, stage.batch_size)
    with progress, session.interruption.deferred():
        for epoch in range(step // steps, stage.epochs):
            feed = epoch_feed(stage, epoch, step % steps, session.devices)
            for done, state in dispatcher.run(state, frozen, feed, step % steps):  # noqa: B020
                step = epoch * steps + done
                progress.advance(step)
                if done < steps and time.monotonic() - saved > session.save_seconds:
                    save(stage, step, state, checkpoints, session)
                    saved = time.monotonic()
            if step < (epoch + 1) * steps:
                stop(stage, step, state, checkpoints, session)
            progress.evaluating()
            figures = epoch_figures(
                stage, state, evaluate((state.params, state.batch_stats), held_out, stage.held_out)
            )
            session.book.write(
                {
                    "stage": stage.name,
                    "epoch": epoch + 1,
                    "step": step,
                    "learning_rate": float(stage.learning_rate(step - 1)),
                    **figures,
                }
            )
            save(stage, step, state, checkpoints, session, headline(stage, figures))
            saved = time.monotonic()
            progress.epoch(epoch + 1, stage.epochs, figures)


def save(
    stage: Stage,
    step: int,
    state: TrainState,
    checkpoints: Checkpoints | None,
    session: Session,
    score: float | None = None,
) -> None:
    """Saves `state` behind `step`, stacked over the devices, if it is sound and if this is the process that saves."""
    check_finite(stage, state.spoiled)
    if checkpoints:
        checkpoints.save(first(state), score)
    session.book.saved(stage.name, step)


def stop(
    stage: Stage, step: int, state: TrainState, checkpoints: Checkpoints | None, session: Session
) -> NoReturn:
    """Ends training within an epoch, once `state` is saved."""
    save(stage, step, state, checkpoints, session)
    if checkpoints:
        checkpoints.wait()
    reason = session.interruption.reason or "another process stops"
    raise Stopped(
        f"{reason}: {stage.name} is saved at step {step} of {stage.total_steps}; the same command goes on "
        "from there"
    )


def epoch_figures(stage: Stage, state: TrainState, scores: dict[str, float]) -> dict[str, float]:
    """The epoch's means: of the loss, its terms and figures under train/, of the evaluation under its split's name."""
    return {
        f"train/{name}": float(total) / stage.task.steps_per_epoch
        for name, total in first(state.sums).items()
    } | {f"{stage.held_out_name}/{name}": value for name, value in scores.items()}


def headline(stage: Stage, figures: dict[str, float]) -> float:
    """What epochs are compared by, more is better: top-1 accuracy, or the training loss where no class is learned."""
    return figures.get(f"{stage.held_out_name}/top1", -figures["train/loss"])
