r"""How similar students are to their teacher on the test images, in numbers and in pictures.

    python -m experiments.similarity runs/sskd runs/table/*/
    python -m experiments.record runs/sskd runs/table/*/

The results are written to similarity.json in the workdirs; `experiments.record` keeps this file. It
holds the numbers of the paper's table 6; the places of the embeddings of some classes (t-SNE,
figure 3a); and, for SSKD's students, how similar teacher and student find some images to their
rotations. The paper does not say on which images, at which temperature and of which layer it
measured; here it is the test images, temperature 1 and the embedding that the classifier takes.
"""

import argparse
import functools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from experiments import protocol, records
from sskd_jax.data import sources
from sskd_jax.exchange import torch_bridge
from sskd_jax.exchange.classifier import Classifier
from sskd_jax.losses import row_divergence
from sskd_jax.methods.sskd import (
    ProjectionHead,
    error_level,
    positives,
    similarity_matrix,
    transferred,
)
from sskd_jax.models.build import adapted, architecture
from sskd_jax.system.console import console, fail, mistakes
from sskd_jax.system.paths import locate, write_bytes
from sskd_jax.types import Params, UserError
from sskd_jax.views import Optics
from sskd_jax.workdir.files import CONFIG, STAGE, read_json
from sskd_jax.workdir.seeds import check_run
from sskd_jax.workdir.stages import kind_of, load_stage, stage_folders

PICTURED = 8  # images whose rotations are compared
CLASSES, PER_CLASS = 8, 30  # of the images whose embeddings are shown


class Answers(NamedTuple):
    """A network's outputs for N images: logits [N, K] and embed [N, D]."""

    logits: np.ndarray
    embed: np.ndarray


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear CKA of features [N, D] and [N, E] of the same images, from 0 to 1.

    Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019.
    """
    first, second = (one - one.mean(0) for one in (first, second))
    shared = np.linalg.norm(first.T @ second) ** 2
    return float(shared / (np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second)))


def agreement(student: np.ndarray, teacher: np.ndarray) -> float:
    """The share of images for which the logits [N, K] of both networks predict the same class."""
    return float((student.argmax(1) == teacher.argmax(1)).mean())


def measures(student: Answers, teacher: Answers) -> dict[str, float]:
    return {
        "kl": float(row_divergence(student.logits, teacher.logits).mean()),
        "cka": linear_cka(student.embed.astype(np.float64), teacher.embed.astype(np.float64)),
        "agreement": agreement(student.logits, teacher.logits),
    }


def answers(network: Classifier, image: np.ndarray) -> Answers:
    """The outputs of a network for uint8 images [N, H, W, C]."""
    parts = [(outputs.logits, outputs.embed) for outputs in network.outputs(image)]
    return Answers(*map(np.concatenate, zip(*parts, strict=True)))


def neighbourhood(embed: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """The t-SNE places [n, 2] and labels [n] of some images of the first classes."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    shown = [np.flatnonzero(label == value)[:PER_CLASS] for value in range(CLASSES)]
    index = np.concatenate(shown)
    with threadpool_limits(1):  # threads gain nothing on so few points, and fight for busy cores
        place = TSNE(perplexity=20, init="pca", random_state=0).fit_transform(embed[index])
    return {"place": np.round(place, 1).tolist(), "label": label[index].tolist()}


def rotations(
    student: np.ndarray, teacher: np.ndarray, heads: tuple[Params, Params], ratio: float
) -> dict[str, Any]:
    """Similarities [3N, N] of rotated images with normal ones, and the rows that SSKD imitates.

    Args:
      student, teacher: embeddings [4N, D] of N images in four rotations, image-major.
      heads: the variables of the student's and the teacher's head.
      ratio: of the rows in which the teacher is wrong, the share that is kept.
    """
    ours, theirs = (
        similarity_matrix(ProjectionHead().apply(head, embed))
        for head, embed in zip(heads, (student, teacher), strict=True)
    )
    kept = transferred(error_level(theirs, positives(theirs)), ratio)
    found = {"student": np.round(ours, 2), "teacher": np.round(theirs, 2), "kept": kept}
    return {name: np.asarray(array, np.float64).tolist() for name, array in found.items()}


def stage_variables(workdir: epath.Path, config: dict[str, Any], stage: str) -> Params:
    """{"params", "batch_stats"} by net of a stage that a run trained or was given.

    They are read from the `checkpoint` that the config names for the stage, or else the workdir.

    Raises:
      UserError: the stage is not there, or not finished.
    """
    kind = kind_of(stage)
    section = config[kind]
    given = section.get("checkpoint")
    if given and protocol.is_given(section):
        variables, _ = torch_bridge.load_weights(locate(given), section["model"], kind)
        return {kind: variables}
    return load_stage(locate(given) if given else workdir, stage, {})


def compare(workdir: epath.Path) -> dict[str, Any]:
    """The results for every teacher and student of a finished run, by stage."""
    if not (workdir / CONFIG).exists():
        raise UserError(f"{workdir} holds no run: give the workdir of one that distilled a teacher")
    config = read_json(workdir / CONFIG)
    told = config["data"]
    if "teacher" not in config:
        raise UserError(f"{workdir} has no teacher: give the workdir of a run that distilled one")
    if "size" in told:
        raise UserError(f"{workdir} was trained on streamed images, which are not compared here")
    data = sources.load(told["name"], told["data_dir"] or None)
    optics = Optics(flip=False, pad=0, mean=tuple(told["mean"]), std=tuple(told["std"]))
    image, label = data.test.image, data.test.label
    views = [np.rot90(image[:PICTURED], turn, axes=(1, 2)) for turn in range(4)]
    turned = np.stack(views, 1).reshape(-1, *image.shape[1:])

    def network(kind: str, variables: Params) -> Classifier:
        """The network of a stage, which normalises the dataset's images as it did in the run."""
        section = config[kind]
        module = architecture(section["model"])(num_classes=data.num_classes)
        return Classifier(section["model"], adapted(module, optics, section), variables, told)

    found: dict[str, Any] = {}

    @functools.cache
    def teacher_of(stage: str) -> tuple[Classifier, Answers]:
        teacher = network("teacher", stage_variables(workdir, config, stage)["teacher"])
        theirs = answers(teacher, image)
        found[stage] = {"tsne": neighbourhood(theirs.embed, label)}
        return teacher, theirs

    for folder in stage_folders(workdir):
        if folder.name == "student":
            stage = str(folder.relative_to(workdir))
            own = stage.replace("student", "teacher")  # of a method that trains its own
            has_own = (workdir / own / STAGE).exists()
            teacher, theirs = teacher_of(own if has_own else "teacher")
            nets = load_stage(folder, "student", {})
            student = network("student", nets["student"])
            ours = answers(student, image)
            found[stage] = measures(ours, theirs)
            found[stage]["tsne"] = neighbourhood(ours.embed, label)
            _, setting, _ = protocol.recipe(config, stage)
            if "ss_ratio" in setting["method"]:  # SSKD's head, and no other
                head = stage_variables(workdir, config, stage.replace("student", "head"))["head"]
                pair = [one.features(turned) for one in (student, teacher)]
                ratio = setting["method"]["ss_ratio"]
                found[stage]["rotations"] = rotations(*pair, (nets["head"], head), ratio)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Compares the networks of the workdirs on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.similarity", description=__doc__.splitlines()[0]
    )
    parser.add_argument("workdir", nargs="+", help="of a finished run")
    try:
        for workdir in parser.parse_args(argv).workdir:
            check_run(locate(workdir))
            path = locate(workdir) / records.SIMILARITY
            write_bytes(path, json.dumps(compare(locate(workdir))).encode())
            console.print(f"written  {path}")
    except mistakes() as error:
        fail(str(error))


if __name__ == "__main__":
    main()
