"""One stage from its first step to its last: restore, epochs, evaluation, checkpoints."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from etils import epath
from flax import serialization
from flax.traverse_util import flatten_dict

from sskd_jax.data.sources import Split
from sskd_jax.data.stream import Feed, Stream
from sskd_jax.engine.begin import Sketch
from sskd_jax.engine.devices import (
    broadcast_from_chief,
    chief,
    local_positions,
    max_over_processes,
    replicated,
    run_once,
    unreplicate,
)
from sskd_jax.engine.evaluate import evaluation
from sskd_jax.engine.order import check_positions, shard_epoch, stage_seed
from sskd_jax.engine.step import initial_state, train_program
from sskd_jax.engine.task import Frozen, Health, Task, TrainState
from sskd_jax.system.console import StageProgress, console
from sskd_jax.system.interruption import Interruption
from sskd_jax.types import Array, Params, Stopped, UserError
from sskd_jax.workdir.checkpoint import Checkpoints, has_checkpoints
from sskd_jax.workdir.logbook import Logbook, NoLogbook
from sskd_jax.workdir.stages import check_description, describe

DISPATCH_SECONDS = 1.0  # per dispatch: long enough to hide its cost, short enough to show progress


class Job(NamedTuple):
    """A stage of a run: what it trains, on which images, and how long.

    Attributes:
      name: as in metrics.jsonl, such as "teacher" or "sskd/student"; also its folder.
      kind: its name in its method, such as "student".
      about: the description of its checkpoints; a folder with a different one is refused.
      networks: the architecture, by net, of every net that is a network ("resnet8") or a part of
        one ("resnet8.branches").
      task: the constants of its programs.
      sketch: the shapes of its first state.
      origins: by net, the (job, net) from which a net starts, or as which it stays frozen.
      frozen: the resident images and the frozen nets. The nets have their values only after the
        jobs in `origins` are done.
      start: the variables to start from, by net; the same holds for their values.
      images: to train on.
      held_out: images to evaluate with after every epoch.
      held_out_name: "test" or "validation".
      learning_rate: a function of the step.
      seed: of the run.
      checkpoint: where the finished stage is read from instead of being trained; "" for none.
      start_from: the file or the workdir whose weights it starts from; "" for none.
      remarks: what its row of the results contains in addition to the scores.
      beside: further entries of stage.json, which may differ from those in the folder.
    """

    name: str
    kind: str
    about: dict[str, Any]
    networks: Mapping[str, str]
    task: Task
    sketch: Sketch
    origins: Mapping[str, tuple[str, str]]
    frozen: Frozen
    start: Params
    images: Split | Stream
    held_out: Split | Stream
    held_out_name: str
    epochs: int
    batch_size: int
    learning_rate: Callable[[int], Any]
    seed: int
    checkpoint: str = ""
    start_from: str = ""
    remarks: Mapping[str, Any] = {}
    beside: Mapping[str, Any] = {}

    @property
    def total_steps(self) -> int:
        return self.epochs * self.task.steps_per_epoch


class Trained(NamedTuple):
    """How a stage ended.

    Attributes:
      last: {"params", "batch_stats"} by net, after the last epoch.
      best: the same after the best epoch; None if the stage was not trained in this run, or if
        that checkpoint was lost.
      best_epoch: counted from 1.
    """

    last: Params
    best: Params | None
    best_epoch: int | None


class Session(NamedTuple):
    """Where the stages of a run are trained, and what they share.

    Attributes:
      workdir: the folder in which every stage has its folder.
      devices: of all processes.
      book: the logbook in the chief; in other processes, one that writes nothing.
      interruption: asked before every dispatch.
      save_seconds: between two checkpoints within an epoch.
    """

    workdir: epath.Path
    devices: Sequence[jax.Device]
    book: Logbook | NoLogbook
    interruption: Interruption
    save_seconds: float


def epoch_seed(job: Job, epoch: int) -> list[int]:
    return [*stage_seed(job.seed, job.kind), epoch]


def epoch_order(job: Job, epoch: int, devices: int) -> np.ndarray:
    """The images of an epoch's steps, i32[devices, steps, n], in the stage's order."""
    rng = np.random.default_rng(epoch_seed(job, epoch))
    visited = np.asarray(job.task.stage.order(rng, job.images, epoch))
    check_positions(visited, job.images.size)
    return shard_epoch(visited, job.task.steps_per_epoch, job.batch_size, devices)


def epoch_feed(job: Job, epoch: int, start: int, devices: Sequence[jax.Device]) -> Feed:
    """The dispatches of an epoch from step `start` on, for the devices of this process."""
    steps, own = job.task.steps_per_epoch, local_positions(devices)
    order = epoch_order(job, epoch, len(devices))
    # An image's place in the epoch decides, with the seed, how it is cropped on the host.
    places = np.arange(steps * job.batch_size)
    place = shard_epoch(places, steps, job.batch_size, len(devices))
    seed = np.random.SeedSequence(epoch_seed(job, epoch)).generate_state(1)[0]
    return job.images.epoch(order[own], place[own], int(seed), start)


class Dispatcher:
    """Runs steps, as many per dispatch as take about a second.

    The next dispatch is queued before the last one is done.
    """

    def __init__(self, job: Job, session: Session):
        self.program, self.steps = train_program(job.task, session.devices), 1
        self.job, self.interruption = job, session.interruption

    def run(
        self, state: TrainState, frozen: Frozen, feed: Feed, start: int
    ) -> Iterator[tuple[int, TrainState]]:
        """Yields (steps of the epoch that are done or queued, state) about every second.

        Ends at the end of the epoch, or earlier if a stop is due.
        """
        total, pending = self.job.task.steps_per_epoch, []
        while start < total:
            began = time.perf_counter()  # several processes wait for the devices to agree on a stop
            if self.stop_is_due():
                break
            stop, waited = min(start + self.steps, total), 0
            for index, first_step, last_step in feed(start, stop):
                state, health = self.program(state, frozen, index, first_step, last_step)
                waited += self.wait(pending)
                pending.append((health, last_step - first_step))
            if waited:
                seconds = (time.perf_counter() - began) / waited
                self.steps = int(np.clip(DISPATCH_SECONDS / seconds, 1, 2 * self.steps))
            start = stop
            yield stop, state
        self.wait(pending)

    def wait(self, pending: list[tuple[Health, int]]) -> int:
        """Waits for the pending dispatch, if there is one; returns its number of steps."""
        if not pending:
            return 0
        health, steps = pending.pop()
        check_finite(self.job, health.first_nonfinite)
        check_alike(self.job, health.unlike)
        return steps

    def stop_is_due(self) -> bool:
        """Whether to stop; all processes agree on it, and on the number of steps per dispatch."""
        self.steps, due = max_over_processes(self.steps, self.interruption.due())
        return bool(due)


def check_finite(job: Job, first_nonfinite: dict[str, Array]) -> None:
    """Waits for a dispatch; raises a `UserError` if one of its values was not finite."""
    steps = {name: int(step) for name, step in unreplicate(first_nonfinite).items() if step}
    if steps:
        step = min(steps.values())
        names = ", ".join(name for name in steps if steps[name] == step)
        raise UserError(
            f"{job.name} diverged: not finite in step {step}: {names}. The checkpoints before it "
            "are kept; try a lower learning rate in another --workdir"
        )


def check_alike(job: Job, unlike: dict[str, Array]) -> None:
    """Raises a `UserError` if devices hold different memories or batch statistics.

    Results would depend on their number, and a resumed run would go on from what one of them held.
    """
    for name, differs in unreplicate(unlike).items():
        if differs:
            cure = "use sskd_jax.layers.norm.BatchNorm, or axis_name=sskd_jax.axis.AXIS"
            if name == "memory":
                cure = "make it of the whole batch, by sskd_jax.axis.everywhere"
            raise UserError(
                f"{job.name}: devices hold different numbers in {name}, so results would depend on "
                f"how many there are: {cure}"
            )


def run_stage(job: Job, session: Session) -> Trained:
    """Trains a stage from its newest checkpoint, or from the start, to its end.

    A finished stage is only loaded.
    """
    opened = open_checkpoints(job, session.workdir) if chief() else contextlib.nullcontext()
    with opened as checkpoints:
        # Only the chief has checkpoints; what it reads is sent to all processes.
        load = partial(restored, checkpoints, job.sketch.state)
        state = load(Checkpoints.newest) or first_state(job)
        if step := int(state.step):
            is_done = step == job.total_steps
            console.print(f"{job.name}  {'done' if is_done else 'goes on'} at step {step}")
            session.book.tell_missing(job.name, step, step // job.task.steps_per_epoch)
        if step < job.total_steps:
            train(job, state, checkpoints, session)
        last, best = load(Checkpoints.newest), load(Checkpoints.best)
    if any(max_over_processes(not session.book.is_best(job.name, int(best.step)))):
        console.print(f"{job.name}  its best checkpoint is lost: the results name no best epoch")
        return Trained(last.variables, best=None, best_epoch=None)
    best_epoch = int(best.step) // job.task.steps_per_epoch
    return Trained(last.variables, best.variables, best_epoch)


def is_begun(job: Job, session: Session) -> bool:
    """Whether a stage has a checkpoint, from which it is resumed."""
    folder = session.workdir / job.name
    has_one = chief() and folder.is_dir() and has_checkpoints(folder)
    return any(max_over_processes(has_one))


def first_state(job: Job) -> TrainState:
    return initial_state(job.task, jax.random.PRNGKey(job.seed), job.frozen, job.start)


def open_checkpoints(job: Job, workdir: epath.Path) -> Checkpoints:
    folder = workdir / job.name
    describe(folder, job.about | dict(job.beside))
    advice = "give another --workdir, or delete the folder to train it again"
    check_description(folder, job.about, advice)
    return Checkpoints(folder)


def restored(
    checkpoints: Checkpoints | None,
    shapes: TrainState,
    read: Callable[[Checkpoints], dict[str, Any] | None],
) -> TrainState | None:
    """The state that the chief reads from its checkpoints, in all processes; None without one."""
    stored = checkpoints and read(checkpoints)
    if not any(max_over_processes(bool(stored))):
        return None
    blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    if not stored:
        return broadcast_from_chief(blank)
    check_fits(stored, blank, checkpoints.folder)
    return broadcast_from_chief(serialization.from_state_dict(blank, stored))


def check_fits(stored: Mapping[str, Any], blank: TrainState, folder: epath.Path) -> None:
    """Raises a `UserError` if a stored state has other arrays than `blank`, by name and shape."""
    theirs, ours = (
        {path: list(np.shape(leaf)) for path, leaf in flatten_dict(tree, sep=".").items()}
        for tree in (stored, serialization.to_state_dict(blank))
    )
    for path in theirs | ours:
        before, now = (shapes.get(path, "not there") for shapes in (theirs, ours))
        if before != now:
            raise UserError(
                f"{path} is {before} in {folder}, and {now} in this run: the code or the images "
                "have changed; give another --workdir, or delete the folder to train it again"
            )


def measure(
    job: Job, trained: Sequence[Params], split: Split | Stream, session: Session
) -> list[dict[str, float]]:
    """The means of a stage's scores over a split, for each of several sets of variables."""
    evaluate = evaluation(job.task, session.devices, job.batch_size)
    frozen = replicated(job.frozen._replace(**split.resident()), session.devices)
    return [evaluate(replicated(own, session.devices), frozen, split) for own in trained]


def train(
    job: Job,
    state: TrainState,
    checkpoints: Checkpoints | None,
    session: Session,
) -> None:
    """Trains a stage from `state` to its last epoch.

    Every epoch ends with an evaluation, a row in the logbook and a checkpoint.

    Raises:
      Stopped: a stop was due; everything is saved.
      UserError: training diverged.
    """
    steps, step = job.task.steps_per_epoch, int(state.step)
    session.book.rewind(job.name, step)
    state, frozen = replicated((state, job.frozen), session.devices)
    held_out = frozen._replace(**replicated(job.held_out.resident(), session.devices))
    evaluate = evaluation(job.task, session.devices, job.batch_size)
    dispatcher, saved = Dispatcher(job, session), time.monotonic()
    progress = StageProgress(job.name, step, job.total_steps, job.batch_size)
    with progress, session.interruption.deferred():
        for epoch in range(step // steps, job.epochs):
            feed = epoch_feed(job, epoch, step % steps, session.devices)
            for done, state in dispatcher.run(state, frozen, feed, step % steps):  # noqa: B020
                step = epoch * steps + done
                progress.advance(step)
                if done < steps and time.monotonic() - saved > session.save_seconds:
                    save(job, step, state, checkpoints, session)
                    saved = time.monotonic()
            if step < (epoch + 1) * steps:
                stop(job, step, state, checkpoints, session)
            progress.evaluating()
            scores = evaluate(state.variables, held_out, job.held_out)
            figures = epoch_figures(job, state, scores)
            rate = {"learning_rate": float(run_once(job.learning_rate, step - 1))}
            place = {"stage": job.name, "epoch": epoch + 1, "step": step}
            session.book.write(place | rate | figures)
            save(job, step, state, checkpoints, session, compared_by(scores, figures))
            saved = time.monotonic()
            progress.epoch(epoch + 1, job.epochs, figures)


def save(
    job: Job,
    step: int,
    state: TrainState,
    checkpoints: Checkpoints | None,
    session: Session,
    score: float | None = None,
) -> None:
    """Checks that a stacked state is finite; in the chief, also saves it as a checkpoint."""
    check_finite(job, state.first_nonfinite)
    if checkpoints:
        checkpoints.save(unreplicate(state), score)
    session.book.saved(job.name, step)


def stop(
    job: Job, step: int, state: TrainState, checkpoints: Checkpoints | None, session: Session
) -> NoReturn:
    """Saves `state`, unless it is that of step 0, and ends training by raising `Stopped`."""
    if step:
        save(job, step, state, checkpoints, session)
    if checkpoints:
        checkpoints.wait()
    reason = session.interruption.reason or "another process stops"
    raise Stopped(
        f"{reason}: {job.name} stands at step {step} of {job.total_steps}; the same command "
        "goes on from there"
    )


def epoch_figures(job: Job, state: TrainState, scores: dict[str, float]) -> dict[str, float]:
    """The epoch's means: of loss, terms and figures under train/, of scores under their split."""
    steps = job.task.steps_per_epoch
    sums = {
        f"train/{name}": float(total) / steps for name, total in unreplicate(state.sums).items()
    }
    return sums | {f"{job.held_out_name}/{name}": value for name, value in scores.items()}


def compared_by(scores: dict[str, float], figures: dict[str, float]) -> float:
    """The value by which epochs are compared, larger is better: the first score, or else -loss."""
    return next(iter(scores.values()), -figures["train/loss"])
