"""Takes a student away from its workdir: the network alone, and as JSON what it expects and what it reached."""

import argparse
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax import export

from sskd_jax import views
from sskd_jax.engine.loop import load_stage
from sskd_jax.exchange import torch_bridge, torch_file
from sskd_jax.models import MODELS
from sskd_jax.system.paths import locate, stage_folders, write_bytes
from sskd_jax.types import Array, Params, UserError, choose
from sskd_jax.workdir.logbook import read_json, write_json

PLATFORMS = ("cpu", "cuda", "tpu")

Record = Mapping[str, Any]


def pth(record: Record, variables: Params) -> bytes:
    """A bare state_dict with the names and shapes of the reference's PyTorch network."""
    file = io.BytesIO()
    torch_file.write_tensors(file, torch_bridge.to_state_dict(record["model"], variables))
    return file.getvalue()


def safetensors(record: Record, variables: Params) -> bytes:
    """The same arrays as safetensors; its library writes the format that other frameworks read."""
    from safetensors.numpy import save

    return save(torch_bridge.to_state_dict(record["model"], variables))


def stablehlo(record: Record, variables: Params) -> bytes:
    """The program uint8 images [N, H, W, C] -> logits [N, K], its weights and preprocessing inside."""
    program = jax.jit(partial(logits, record, variables))
    images = jax.ShapeDtypeStruct((export.symbolic_shape("n")[0], *record["image"]), jnp.uint8)
    return bytes(export.export(program, platforms=PLATFORMS)(images).serialize())


def logits(record: Record, variables: Params, image: Array) -> Array:
    """[N, K] of uint8 images [N, H, W, C]."""
    plain = partial(views.evaluate_views, views=1, mean=record["mean"], std=record["std"])
    network = MODELS[record["model"]](num_classes=record["num_classes"])
    return network.apply(variables, jax.vmap(plain)(image)[:, 0]).logits


FORMATS: dict[str, Callable[[Record, Params], bytes]] = {
    "pth": pth,
    "safetensors": safetensors,
    "stablehlo": stablehlo,
}


def find_student(workdir: epath.Path, stage: str | None) -> str:
    """The name of the only student's stage, or `stage` if the workdir has it."""
    found = sorted(
        str(path.relative_to(workdir)) for path in stage_folders(workdir) if path.name == "student"
    )
    if not found:
        raise UserError(f"{workdir} holds no student: give the --workdir of a run that trained one")
    if stage is None and len(found) > 1:
        raise UserError(
            f"{workdir} holds several students: choose one with --stage={'|'.join(found)}"
        )
    return choose(dict(zip(found, found, strict=True)), stage or found[0], "stage")


def describe(workdir: epath.Path, stage: str) -> dict[str, Any]:
    """What to know about a student: its network, what it expects, and what the run's final table says of it."""
    about, config = (
        read_json(path) for path in (workdir / stage / "stage.json", workdir / "config.json")
    )
    results = workdir / "results.json"
    rows = read_json(results) if results.exists() else []
    row = next((row for row in rows if row["stage"] == stage), {})
    return {
        "model": about["model"],
        "num_classes": about["num_classes"],
        "image": about["image"],
        "preprocessing": "image / 255, minus mean, over std, by channel (RGB)",
        "mean": config["data"]["mean"],
        "std": config["data"]["std"],
        "data": config["data"]["name"],
        "stage": stage,
        "steps": about["steps"],
        "accuracy": {name: row.get(name) for name in ("top1", "top5")},
    }


def export_student(
    workdir: str, kind: str, stage: str | None = None, out: str | None = None
) -> str:
    """Writes the last weights of a student in a format of `FORMATS`; returns what to tell.

    Raises:
      UserError: there is no such student, it is not finished, or the file can't be written.
    """
    folder = locate(workdir)
    stage = find_student(folder, stage)
    record, state = describe(folder, stage), load_stage(folder / stage, "student", {})
    path = locate(out) if out else folder / f"{stage.replace('/', '-')}.{kind}"
    try:
        student = {"params": state["params"]["student"], "batch_stats": state["batch_stats"]}
        write_bytes(path, FORMATS[kind](record, student))
        write_json(path.with_name(path.name + ".json"), record)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return f"wrote {stage}, a {record['model']}, to {path}; {path.name}.json says what it expects and what it reached"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 after a mistake, whose one line is on stderr."""
    parser = argparse.ArgumentParser(prog="python -m sskd_jax.exchange.export", description=__doc__)
    parser.add_argument("--workdir", required=True, help="of the run that trained the student")
    parser.add_argument("--format", choices=FORMATS, default="pth", help="default: pth")
    parser.add_argument("--stage", help="such as sskd/student, where the run has several students")
    parser.add_argument("--out", help="the file; default: in the workdir")
    args = parser.parse_args(argv)
    try:
        print(export_student(args.workdir, args.format, args.stage, args.out))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
