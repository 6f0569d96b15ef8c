"""The trained networks in a workdir: which there are, what is known of them, and their weights."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from sskd_jax.types import Params, UserError, choose
from sskd_jax.workdir.checkpoint import read_step
from sskd_jax.workdir.files import CONFIG, METRICS, RESULTS, existing_rows, read_json
from sskd_jax.workdir.seeds import check_run
from sskd_jax.workdir.stages import check_description, kind_of, load_folder, stage_folders

NETWORKS = ("student", "teacher")  # the kinds of stages that produce one


def networks_in(workdir: epath.Path) -> list[str]:
    """The names of the stages in a workdir that produce a network, such as "sskd/student"."""
    names = (str(folder.relative_to(workdir)) for folder in stage_folders(workdir))
    return sorted(name for name in names if kind_of(name) in NETWORKS)


def find_network(workdir: epath.Path, stage: str | None) -> str:
    """The name of a stage in a workdir that produces a network: "sskd/student", "teacher", ...

    Args:
      workdir: of the run.
      stage: the wanted name; None: that of the only student.

    Raises:
      UserError: there is no such stage, or there are several students to choose from.
    """
    check_run(workdir)
    found = networks_in(workdir)
    students = [name for name in found if kind_of(name) == "student"]
    if stage is None and not students:
        raise UserError(f"{workdir} holds no student: give the workdir of a run that trained one")
    if stage is None and len(students) > 1:
        raise UserError(
            f"{workdir} holds several students: choose one with --stage={'|'.join(students)}"
        )
    return choose(dict(zip(found, found, strict=True)), stage or students[0], "stage")


def describe(workdir: epath.Path, stage: str, best: bool = False) -> dict[str, Any]:
    """A record of a stage's network: how it expects images, and which accuracy it reached.

    It is the network after the last epoch, or after the best one.
    """
    about = check_description(workdir / stage, {}, "give another workdir")
    data = read_json(workdir / CONFIG)["data"]
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


def record_beside(file: epath.Path) -> epath.Path:
    """FILE.json, where `export` writes what `describe` says of the network in a file."""
    return file.with_name(f"{file.name}.json")


def accuracy(result: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    """top1 and top5 of a row of the results; None if they are not known."""
    return {name: result.get(prefix + name) for name in ("top1", "top5")}


def best_step(workdir: epath.Path, stage: str) -> int:
    """The step at the end of a stage's best epoch.

    Raises:
      UserError: the results name no best epoch.
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
    """{"params", "batch_stats"} of the network that a finished stage produced.

    They are those after the last epoch, or after the best one.
    """
    kind = kind_of(stage)
    last = load_folder(workdir / stage)[kind]
    if not best:
        return last
    state = read_step(workdir / stage, best_step(workdir, stage))
    return {"params": state["params"][kind], "batch_stats": state["batch_stats"].get(kind, {})}


def result_row(workdir: epath.Path, stage: str) -> dict[str, Any]:
    """The row of a stage in results.json; empty if the run has not got that far."""
    results = workdir / RESULTS
    if not results.exists():
        return {}
    return next((row for row in read_json(results) if row["stage"] == stage), {})
