r"""How similar students are to their teacher on the test images, as the paper's table 6 asks.

    python -m experiments.similarity runs/sskd runs/table/*/
    python -m experiments.record runs/sskd runs/table/*/

It writes similarity.json into the workdirs, which the records then keep. The paper does not say on
which images, at which temperature and of which layer; here it is the test images, temperature 1 and
the embedding in front of the classifier.
"""

import argparse
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments import protocol, record
from sskd_jax.data import sources
from sskd_jax.exchange import torch_bridge
from sskd_jax.main import fail
from sskd_jax.models import MODELS
from sskd_jax.system.console import console
from sskd_jax.system.paths import locate, stage_folders
from sskd_jax.types import Array, Params, UserError
from sskd_jax.views import Optics, normalise
from sskd_jax.workdir.files import read_json, write_json
from sskd_jax.workdir.stages import load_stage

BATCH = 500  # images


class Answers(NamedTuple):
    """What a network says of N images: logits [N, K] and embed [N, D]."""

    logits: np.ndarray
    embed: np.ndarray


def divergence(student: np.ndarray, teacher: np.ndarray) -> float:
    """KL(teacher || student) of the predictions of logits [N, K], the mean over images."""
    ours, theirs = (jax.nn.log_softmax(logits) for logits in (student, teacher))
    return float((jnp.exp(theirs) * (theirs - ours)).sum(1).mean())


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear CKA of features [N, D] and [N, E] of the same images, from 0 to 1.

    Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019.
    """
    first, second = (one - one.mean(0) for one in (first, second))
    shared = np.linalg.norm(first.T @ second) ** 2
    return float(shared / (np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second)))


def agreement(student: np.ndarray, teacher: np.ndarray) -> float:
    """The share of images that both find to be of the same class."""
    return float((student.argmax(1) == teacher.argmax(1)).mean())


def measures(student: Answers, teacher: Answers) -> dict[str, float]:
    return {
        "kl": divergence(student.logits, teacher.logits),
        "cka": linear_cka(student.embed.astype(np.float64), teacher.embed.astype(np.float64)),
        "agreement": agreement(student.logits, teacher.logits),
    }


def answers(model: str, variables: Params, data: sources.Dataset, optics: Optics) -> Answers:
    """What a network says of all test images."""
    module = MODELS[model](num_classes=data.num_classes)

    @jax.jit
    def ask(variables: Params, image: Array) -> tuple[Array, Array]:
        found = module.apply(variables, normalise(image, optics))
        return found.logits, found.embed

    parts = [
        ask(variables, data.test.image[start : start + BATCH])
        for start in range(0, data.test.size, BATCH)
    ]
    return Answers(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def teacher_variables(workdir: epath.Path, config: dict[str, Any]) -> Params:
    """The teacher of a run, from wherever it came.

    Raises:
      UserError: it is not there, or not finished.
    """
    section = config["teacher"]
    given = section.get("checkpoint")
    if given and protocol.is_given(section):
        variables, _ = torch_bridge.load_pth(locate(given), section["model"])
        return variables
    return load_stage(locate(given) if given else workdir, "teacher", {})["teacher"]


def compare(workdir: epath.Path) -> dict[str, dict[str, float]]:
    """The measures of every student of a finished run, by its stage."""
    config = read_json(workdir / "config.json")
    told = config["data"]
    data = sources.load(told["name"], told["data_dir"] or None)
    optics = Optics(flip=False, pad=0, mean=tuple(told["mean"]), std=tuple(told["std"]))
    ask = partial(answers, data=data, optics=optics)
    teacher = ask(config["teacher"]["model"], teacher_variables(workdir, config))
    found = {}
    for folder in stage_folders(workdir):
        if folder.name == "student":
            variables = load_stage(folder, "student", {})["student"]
            stage = str(folder.relative_to(workdir))
            found[stage] = measures(ask(config["student"]["model"], variables), teacher)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Compares the networks of the workdirs that are named."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.similarity", description=__doc__.splitlines()[0]
    )
    parser.add_argument("workdir", nargs="+", type=pathlib.Path, help="of a finished run")
    try:
        for workdir in parser.parse_args(argv).workdir:
            path = locate(workdir) / record.SIMILARITY
            write_json(path, compare(locate(workdir)))
            console.print(f"written  {path}")
    except (UserError, OSError) as error:
        fail(str(error))


if __name__ == "__main__":
    main()
