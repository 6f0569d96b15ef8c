"""Exports a network, such as the student or the teacher, from its workdir to one file.

A JSON file next to it says how the network expects images and which accuracy it reached, and
README.md is a model card in the format of the Hugging Face hub.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import export

from sskd_jax.exchange import model_card, torch_bridge, torch_file
from sskd_jax.exchange.classifier import classifier
from sskd_jax.exchange.finished import (
    describe,
    find_network,
    load_best,
    load_network,
    record_beside,
)
from sskd_jax.system.paths import locate, write_bytes
from sskd_jax.system.quiet import quiet
from sskd_jax.types import Array, Params, UserError, blamed
from sskd_jax.workdir.checkpoint import checksum
from sskd_jax.workdir.files import read_json, write_json

PLATFORMS = ("cpu", "cuda", "tpu")

Record = Mapping[str, Any]  # the description of a network that `describe` returns


def pth(record: Record, variables: Params) -> bytes:
    """A PyTorch file with just a state_dict, with the names of the reference's network."""
    file = io.BytesIO()
    torch_file.write_tensors(file, state_dict(record, variables))
    return file.getvalue()


def safetensors(record: Record, variables: Params) -> bytes:
    """A safetensors file of the arrays in PyTorch's state_dict, which most frameworks can read."""
    from safetensors.numpy import save

    return save(state_dict(record, variables))


def state_dict(record: Record, variables: Params) -> dict[str, np.ndarray]:
    """The arrays by PyTorch's names, in its order of axes."""
    return torch_bridge.to_state_dict(record["model"], variables, record["image"][0])


def stablehlo(record: Record, variables: Params) -> bytes:
    """A serialized program, uint8 images [N, H, W, C] -> logits [N, K], that needs no other file.

    It contains the weights and the normalisation. `jax.export.deserialize` reads it.
    """
    program = export.export(jax.jit(partial(logits, record, variables)), platforms=PLATFORMS)
    with without_places():
        return bytes(program(any_images(record)).serialize())


def onnx(record: Record, variables: Params) -> bytes:
    """An ONNX model: uint8 images [N, H, W, C], "image", -> "logits" [N, K].

    It contains the weights and the normalisation. jax2onnx converts the network, and onnxruntime
    checks that the model gives the network's logits.
    """
    with quiet_logs(), quiet():
        try:
            import jax2onnx
            import onnxruntime
        except ImportError as error:
            raise UserError(
                "an ONNX file needs jax2onnx: pip install '.[onnx]' in a clone of this repository, "
                f"or give another --format ({error})"
            ) from error
        network = partial(logits, record, variables)
        names = {"input_names": ["image"], "output_names": ["logits"]}
        model = jax2onnx.to_onnx(network, [any_images(record)], model_name=record["model"], **names)
        for node in model.graph.node:
            del node.metadata_props[:]  # names and lines of files on this machine
        content = model.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        shape = (2, *record["image"])
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        (found,) = session.run(None, {"image": image})
    with jax.default_matmul_precision("highest"):  # as onnxruntime, which does not round to TF32
        expected = np.asarray(network(image))
    if not np.allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()):
        raise UserError(
            f"jax2onnx does not convert this {record['model']} rightly: give another --format"
        )
    return content


def any_images(record: Record) -> jax.ShapeDtypeStruct:
    """The shape and type of a network's input, for any number of images."""
    (number,) = export.symbolic_shape("n")
    return jax.ShapeDtypeStruct((number, *record["image"]), jnp.uint8)


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """A context that silences all logging, such as a converter's warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def without_places() -> Iterator[None]:
    """A context in which programs do not record from which files and lines they come."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def logits(record: Record, variables: Params, image: Array) -> Array:
    """Logits [N, K] of uint8 images [N, H, W, C]."""
    return classifier(record["model"], variables, record).forward(variables, image).logits


FORMATS: dict[str, Callable[[Record, Params], bytes]] = {
    "pth": pth,
    "safetensors": safetensors,
    "stablehlo": stablehlo,
    "onnx": onnx,
}


def export_network(
    workdir: str,
    kind: str,
    stage: str | None = None,
    out: str | None = None,
    best: bool = False,
) -> str:
    """Writes a network to a file, its description to FILE.json, and README.md next to them.

    Args:
      workdir: of the run that trained it.
      kind: one of `FORMATS`.
      stage: such as "sskd/student" or "teacher"; None: the only student.
      out: the file, or a folder for it; None: the workdir.
      best: whether to take the weights after the best epoch instead of the last one.

    Returns:
      The line that tells the user what was written.

    Raises:
      UserError: there is no such stage, it is not finished, the file can't be written, or it exists
        and is no export of this network.
    """
    folder = locate(workdir)
    network = find_network(folder, stage)
    record = describe(folder, network, best)
    last = load_network(folder, network)
    variables = load_best(folder, network) if best else last
    # The weights after the last epoch tell runs apart, whichever epoch is exported.
    record["last_weights"] = f"{checksum(last):08x}"
    name = f"{network.name.replace('/', '-')}{'-best' * best}.{kind}"
    path = file_to_write(out, folder, name, record["last_weights"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with blamed(f"--format={kind} is for any number of images, with", [record["model"]]):
            content = FORMATS[kind](record, variables)
        # Whenever this is cut short, no file has another one's record, or none at all.
        new = path.with_name(f".{path.name}.new")
        write_bytes(new, content)
        path.unlink(missing_ok=True)
        write_json(record_beside(path), record)
        new.replace(path)
        card = model_card.write(path, record, model_card.facts(folder, network))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return (
        f"wrote {network.name}, a {record['model']}, to {path}; {path.name}.json says what it "
        f"expects and what it reached; {card}"
    )


def file_to_write(out: str | None, workdir: epath.Path, name: str, last_weights: str) -> epath.Path:
    """The file for --out; in a folder, or without --out in the workdir, it has its usual name.

    Raises:
      UserError: its suffix is not that of the format, or it exists and is not an earlier export of
        a network with these last weights.
    """
    path = locate(out) if out else workdir
    if path.is_dir() or str(out).endswith("/"):
        path = path / name
    kind = name.rpartition(".")[2]
    if path.suffix != f".{kind}":
        other = path.suffix.removeprefix(".")
        advice = f"--format={other}, or " if other in FORMATS else ""
        raise UserError(f"--out={out} is to be a {kind} file: give {advice}--out=NAME.{kind}")
    if not path.exists():
        return path
    if not record_beside(path).exists():
        raise UserError(
            f"{path} is there already, and no export, as no {path.name}.json is beside it: give "
            "another --out, or delete it"
        )
    if read_json(record_beside(path)).get("last_weights", last_weights) != last_weights:
        raise UserError(
            f"{path} is there already, with a network of another run or stage: give "
            f"--out={path.parent}/NAME.{kind}, or delete it"
        )
    return path
