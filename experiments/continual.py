r"""How much runs on streams of tasks forgot: accuracy by task, its means, and a picture.

    python -m experiments.continual runs/continual

Reads metrics.jsonl in the workdir of a run of configs/continual.py, prints two rows per method, one
for each score, and draws forgetting.png there: the accuracy on every task (columns) after every
task (rows).
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from experiments.page import Field, Grid, markdown_table
from sskd_jax.system.console import fail, mistakes
from sskd_jax.system.paths import locate
from sskd_jax.types import UserError
from sskd_jax.workdir.files import CONFIG, METRICS, Row, read_json, read_rows
from sskd_jax.workdir.seeds import check_run

SCORES = ("class_il", "task_il")


class Measures(NamedTuple):
    """Summaries of the accuracies on T tasks, in per cent.

    Attributes:
      mean: the accuracy after the last task, averaged over all tasks.
      forgetting: how far the accuracy fell from its best to the end, averaged over all tasks but
        the last.
      backward: how far it moved from the end of its own task to the end of the last, averaged
        likewise.
      forward: how far it was above an untrained network's just before its own task was learned,
        averaged over all tasks but the first.
    """

    mean: float
    forgetting: float
    backward: float
    forward: float


def measures(accuracy: np.ndarray, untrained: np.ndarray) -> Measures:
    """The measures of the accuracy [t, i] on task i after task t, and of an untrained network's.

    Args:
      accuracy: [T, T]; entries with i > t + 1 are not read, and may be nan.
      untrained: [T].
    """
    own, last = np.diag(accuracy), accuracy[-1]
    best = np.tril(np.nan_to_num(accuracy)).max(0)
    return Measures(
        mean=float(last.mean()),
        forgetting=float((best - last)[:-1].mean()),
        backward=float((last - own)[:-1].mean()),
        forward=float((np.diag(accuracy, 1) - untrained[1:]).mean()),
    )


def accuracies(
    rows: Sequence[Row], stage: str, score: str, tasks: int, task_epochs: int
) -> np.ndarray:
    """The accuracy [T, T] on task i after task t in per cent, from a stage's rows among a run's.

    Raises:
      UserError: the stage is not finished, or no image was of some task.
    """
    ends = {row["epoch"]: row for row in rows if row["stage"] == stage}
    after = [ends.get(task * task_epochs) for task in range(1, tasks + 1)]
    if None in after:
        raise UserError(f"{stage} is not done: finish that run first")
    held_out = any(name.startswith("validation/") for name in after[-1])
    split = "validation" if held_out else "test"
    names = [f"{split}/{score}_{task}" for task in range(tasks)]
    if missing := [name for name in names if name not in after[-1]]:
        raise UserError(
            f"{stage} was measured on no image of task {names.index(missing[0])}: give a run whose "
            f"{split} images are of all tasks"
        )
    return 100 * np.asarray([[row[name] for name in names] for row in after])


def chance(score: str, tasks: int, task_classes: int) -> np.ndarray:
    """The accuracy [T] of guessing in per cent, in place of an untrained network's."""
    classes = task_classes * (tasks if score == "class_il" else 1)
    return np.full(tasks, 100 / classes)


def methods_of(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The settings of every method of a run, by the name of its student's stage."""
    if "methods" not in config:
        return {"student": config["method"]}
    return {f"{name}/student": config["settings"][name]["method"] for name in config["methods"]}


def read(workdir: epath.Path) -> dict[tuple[str, str], tuple[np.ndarray, Measures]]:
    """Reads a workdir; returns (accuracy [T, T], measures) by (stage, score).

    Raises:
      UserError: the workdir holds no run on a stream of tasks, or the run is not finished.
    """
    check_run(workdir)
    if not (workdir / METRICS).exists():
        raise UserError(f"{workdir} holds no {METRICS}: give the workdir of a run")
    rows, config, found = read_rows(workdir / METRICS), read_json(workdir / CONFIG), {}
    for stage, numbers in methods_of(config).items():
        if "task_epochs" not in numbers:
            raise UserError(f"{workdir}: {stage} has no tasks: give a run of configs/continual.py")
        task_epochs = numbers["task_epochs"]
        tasks = config["student"]["epochs"] // task_epochs
        for score in SCORES:
            accuracy = accuracies(rows, stage, score, tasks, task_epochs)
            untrained = chance(score, tasks, numbers["task_classes"])
            found[stage, score] = accuracy, measures(accuracy, untrained)
    return found


def table(found: Mapping[tuple[str, str], tuple[np.ndarray, Measures]]) -> Grid:
    """The table of the measures, with a row per stage and score."""
    rows = [
        [Field(text) for text in (*place, *(f"{value:.2f}" for value in own))]
        for place, (_, own) in found.items()
    ]
    return Grid(("stage", "score", *Measures._fields), rows)


def draw(found: Mapping[tuple[str, str], tuple[np.ndarray, Measures]], path: epath.Path) -> None:
    """Draws every accuracy matrix, all in one PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = len(found) // len(SCORES)
    figure, axes = plt.subplots(
        len(SCORES), columns, figsize=(3 * columns, 6), layout="constrained", squeeze=False
    )
    for axis, ((stage, score), (accuracy, _)) in zip(axes.T.flat, found.items(), strict=True):
        image = axis.imshow(accuracy, vmin=0, vmax=100)
        axis.set(title=f"{stage}\n{score}", xlabel="accuracy on task", ylabel="after task")
    figure.colorbar(image, ax=axes, label="%")
    with path.open("wb") as file:
        figure.savefig(file, format="png")
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints and draws how much the methods of a workdir forgot."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.continual", description=__doc__.splitlines()[0]
    )
    parser.add_argument("workdir", help="of a finished run of configs/continual.py")
    args = parser.parse_args(argv)
    try:
        workdir = locate(args.workdir)
        found = read(workdir)
        print(markdown_table(table(found)))
        draw(found, workdir / "forgetting.png")
    except mistakes() as error:
        fail(str(error))
    print(f"picture  {workdir / 'forgetting.png'}")


if __name__ == "__main__":
    main()
