"""The networks that a run has left in its workdir: which there are, and what is known of them."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from sskd_jax.types import Params, UserError, choose
from sskd_jax.workdir.checkpoint import read_step
from sskd_jax.workdir.files import METRICS, existing_rows, read_json
from sskd_jax.workdir.seeds import check_run
from sskd_jax.workdir.stages import check_description, kind_of, load_folder, stage_folders

NETWORKS = ("student", "teacher")  # the kinds of stages that make one


def networks_in(workdir: epath.Path) -> list[str]:
    """The names of the stages of a workdir that make a network, such as "sskd/student"."""
    names = (str(folder.relative_to(workdir)) for folder in stage_folders(workdir))
    return sorted(name for name in names if kind_of(name) in NETWORKS)


def find_network(workdir: epath.Path, stage: str | None) -> str:
    """The name of a stage in a workdir that makes a network, such as "sskd/student" or "teacher".

    Args:
      workdir: of the run.
      stage: the name that is asked for; None: that of the only student.

    Raises:
      UserError: there is no such stage, or there are several students to choose from.
    """
    check_run(workdir)
    found = networks_in(workdir)
    students = [name for name in found if kind_of(name) == "student"]
    if stage is None and not students:
        raise UserError(f"{workdir} holds no student: give the --workdir of a run that trained one")
    if stage is None and len(students) > 1:
        raise UserError(
            f"{workdir} holds several students: choose one with --stage={'|'.join(students)}"
        )
    return choose(dict(zip(found, found, strict=True)), stage or students[0], "stage")


def describe(workdir: epath.Path, stage: str, best: bool = False) -> dict[str, Any]:
    """A stage's network, what it expects of images, and what accuracy it reached.

    It is that behind the last epoch, or the best one.
    """
    about = check_description(workdir / stage, {}, "give another --workdir")
    data = read_json(workdir / "config.json")["data"]
    result = result_row(workdir, stage)
    own = about.get("normalisation", {}).get(kind_of(stage), data)
    image = own.get("image", about["image"])
    resize = data.get("resize", about["image"][0]) * image[0] / about["image"][0]
    return {
        "model": about[f"{kind_of(stage)}_model"],
        "num_classes": about["num_classes"],
        "classes": about.get("classes", []),
        "image": image,
        "resize": round(resize),
        "preprocessing": "shorter side to `resize` (bilinear, antialiased), centre cut to `image`; "
        "then image / 255, minus mean, over std, by channel (RGB)",
        "mean": own["mean"],
        "std": own["std"],
        "data": data["name"],
        "stage": stage,
        "steps": about["steps"],
        "epoch": "best" if best else "last",
        "accuracy": accuracy(result, "best_" if best else ""),
    }


def accuracy(result: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    """top1 and top5 of a row of the results, as far as they are known."""
    return {name: result.get(prefix + name) for name in ("top1", "top5")}


def best_step(workdir: epath.Path, stage: str) -> int:
    """The step behind the best epoch of a stage.

    Raises:
      UserError: the results name none.
    """
    epoch = result_row(workdir, stage).get("best_epoch")
    steps = {
        row["epoch"]: row["step"]
        for row in existing_rows(workdir / METRICS)
        if row["stage"] == stage
    }
    if epoch not in steps:
        raise UserError(
            f"the results of {workdir} name no best epoch of {stage}: finish that run first, or "
            "leave --best out"
        )
    return steps[epoch]


def load_network(workdir: epath.Path, stage: str, best: bool = False) -> Params:
    """{"params", "batch_stats"} of the network that a finished stage made.

    They are those behind the last epoch, or the best one.
    """
    kind = kind_of(stage)
    last = load_folder(workdir / stage)[kind]
    if not best:
        return last
    state = read_step(workdir / stage, best_step(workdir, stage))
    return {"params": state["params"][kind], "batch_stats": state["batch_stats"].get(kind, {})}


def result_row(workdir: epath.Path, stage: str) -> dict[str, Any]:
    """The row of a stage in results.json; empty where the run has not got that far."""
    results = workdir / "results.json"
    if not results.exists():
        return {}
    return next((row for row in read_json(results) if row["stage"] == stage), {})
