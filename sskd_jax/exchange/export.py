"""Takes a network out of its workdir, the student or the teacher: the network alone, in one file.

A JSON file beside it says what the network expects and what accuracy it reached.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from sskd_jax.system import early

if __name__ == "__main__":  # before the imports that take seconds
    early.catch_signals(early.ANEW)

import jax
import jax.numpy as jnp
from etils import epath
from jax import export

from sskd_jax.exchange import torch_bridge, torch_file
from sskd_jax.models.build import architecture
from sskd_jax.system.paths import locate, stage_folders, write_bytes
from sskd_jax.types import Array, Params, UserError, choose
from sskd_jax.views import Optics, normalise
from sskd_jax.workdir.logbook import read_json, write_json
from sskd_jax.workdir.seeds import check_one
from sskd_jax.workdir.stages import check_description, load_stage

PLATFORMS = ("cpu", "cuda", "tpu")
NETWORKS = ("student", "teacher")  # the kinds of stages that make one

Record = Mapping[str, Any]  # of a network, as `describe` gives it


def pth(record: Record, variables: Params) -> bytes:
    """A PyTorch file with a bare state_dict, by the names of the reference's network."""
    file = io.BytesIO()
    torch_file.write_tensors(file, torch_bridge.to_state_dict(record["model"], variables))
    return file.getvalue()


def safetensors(record: Record, variables: Params) -> bytes:
    """A safetensors file with the arrays of PyTorch's state_dict, which most frameworks read."""
    from safetensors.numpy import save

    return save(torch_bridge.to_state_dict(record["model"], variables))


def stablehlo(record: Record, variables: Params) -> bytes:
    """A serialized program, uint8 images [N, H, W, C] -> logits [N, K], that runs by itself.

    Weights and preprocessing are inside. `jax.export.deserialize` reads it.
    """
    batch_size, *_ = export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((batch_size, *record["image"]), jnp.uint8)
    program = export.export(jax.jit(partial(logits, record, variables)), platforms=PLATFORMS)
    with without_places():
        return bytes(program(images).serialize())


@contextlib.contextmanager
def without_places() -> Iterator[None]:
    """Keeps out of programs which lines of which files on this machine they come from."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def logits(record: Record, variables: Params, image: Array) -> Array:
    """Logits [N, K] of uint8 images [N, H, W, C]."""
    optics = Optics(flip=False, pad=0, mean=record["mean"], std=record["std"])
    network = architecture(record["model"])(num_classes=record["num_classes"])
    return network.apply(variables, normalise(image, optics)).logits


FORMATS: dict[str, Callable[[Record, Params], bytes]] = {
    "pth": pth,
    "safetensors": safetensors,
    "stablehlo": stablehlo,
}


def find_stage(workdir: epath.Path, stage: str | None) -> str:
    """The name of a stage in a workdir that makes a network, such as "sskd/student" or "teacher".

    Args:
      workdir: of the run.
      stage: the name that is asked for; None: that of the only student.

    Raises:
      UserError: there is no such stage, or there are several students to choose from.
    """
    check_one(workdir)
    folders = {str(path.relative_to(workdir)): path for path in stage_folders(workdir)}
    found = sorted(name for name, path in folders.items() if path.name in NETWORKS)
    students = [name for name in found if folders[name].name == "student"]
    if stage is None and not students:
        raise UserError(f"{workdir} holds no student: give the --workdir of a run that trained one")
    if stage is None and len(students) > 1:
        raise UserError(
            f"{workdir} holds several students: choose one with --stage={'|'.join(students)}"
        )
    return choose(dict(zip(found, found, strict=True)), stage or students[0], "stage")


def describe(workdir: epath.Path, stage: str) -> dict[str, Any]:
    """A stage's network, what it expects of images, and what accuracy it reached."""
    about = check_description(workdir / stage, {}, "give another --workdir")
    data = read_json(workdir / "config.json")["data"]
    result = result_row(workdir, stage)
    return {
        "model": about[f"{kind_of(stage)}_model"],
        "num_classes": about["num_classes"],
        "classes": about.get("classes", []),
        "image": about["image"],
        "resize": data.get("resize", about["image"][0]),
        "preprocessing": "shorter side to `resize`, centre cut to `image`; "
        "then image / 255, minus mean, over std, by channel (RGB)",
        "mean": data["mean"],
        "std": data["std"],
        "data": data["name"],
        "stage": stage,
        "steps": about["steps"],
        "accuracy": {name: result.get(name) for name in ("top1", "top5")},
    }


def kind_of(stage: str) -> str:
    """The last part of a stage's name, which is the network that it makes: student or teacher."""
    return stage.rpartition("/")[2]


def load_network(workdir: epath.Path, stage: str) -> Params:
    """The last {"params", "batch_stats"} of the network that a finished stage made."""
    return load_stage(workdir / stage, kind_of(stage), {})[kind_of(stage)]


def result_row(workdir: epath.Path, stage: str) -> dict[str, Any]:
    """The row of a stage in results.json; empty where the run has not got that far."""
    results = workdir / "results.json"
    if not results.exists():
        return {}
    return next((row for row in read_json(results) if row["stage"] == stage), {})


def export_network(
    workdir: str, kind: str, stage: str | None = None, out: str | None = None
) -> str:
    """Writes the last weights of a network to a file, and what to know about it to FILE.json.

    Args:
      workdir: of the run that trained it.
      kind: one of `FORMATS`.
      stage: such as "sskd/student" or "teacher"; None: the only student.
      out: the file; None: one in the workdir.

    Returns:
      The line that tells the user what was written.

    Raises:
      UserError: there is no such stage, it is not finished, or the file can't be written.
    """
    folder = locate(workdir)
    stage = find_stage(folder, stage)
    record = describe(folder, stage)
    network = load_network(folder, stage)
    path = locate(out) if out else folder / f"{stage.replace('/', '-')}.{kind}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, FORMATS[kind](record, network))
        write_json(path.with_name(path.name + ".json"), record)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return (
        f"wrote {stage}, a {record['model']}, to {path}; {path.name}.json says what it expects and "
        "what it reached"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exports what the command line asks for.

    Returns:
      The exit code: 0, or 2 after a mistake, whose one line is on stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m sskd_jax.exchange.export", description=__doc__)
    parser.add_argument("--workdir", required=True, help="of the run that trained it")
    parser.add_argument("--format", choices=FORMATS, default="pth", help="default: pth")
    parser.add_argument(
        "--stage", help="such as sskd/student or teacher; default: the only student"
    )
    parser.add_argument("--out", help="the file; default: in the workdir")
    args = parser.parse_args(argv)
    try:
        print(export_network(args.workdir, args.format, args.stage, args.out))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
