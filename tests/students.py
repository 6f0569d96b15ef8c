"""A workdir with a finished student, made without training."""

import json
import pathlib

import jax
import numpy as np
import torch_files

from sskd_jax.engine.task import TrainState
from sskd_jax.exchange import torch_bridge
from sskd_jax.models import MODELS
from sskd_jax.workdir.checkpoint import Checkpoints
from sskd_jax.workdir.stages import describe

ABOUT = {"student_model": "resnet8", "num_classes": 7, "image": [8, 8, 3], "steps": 3}
IMAGE = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def resnet8_variables(num_classes: int = 7) -> dict:
    """Variables of a resnet8 with positive running variances and logits of ordinary size."""
    weights = torch_bridge.from_state_dict("resnet8", torch_files.weights("resnet8", num_classes))
    stats = jax.tree.map(lambda leaf: np.abs(leaf) + 1, weights["batch_stats"])
    # A kernel's last axis is that of its outputs, so this divides by the root of its inputs.
    params = jax.tree.map(lambda leaf: leaf / np.sqrt(leaf[..., 0].size), weights["params"])
    return {"params": params, "batch_stats": stats}


def save(
    workdir: pathlib.Path,
    name: str,
    variables: dict,
    step: int = 3,
    score: float = 0.5,
    net: str = "student",
) -> None:
    """Writes a checkpoint of a stage that has the network, and a head of the method's own."""
    state = TrainState(
        step=np.int32(step),
        params={net: variables["params"], "head": {"bias": np.ones(3, np.float32)}},
        batch_stats={net: variables["batch_stats"], "head": {}},
        opt_state={},
        memory={},
        sums={},
        first_nonfinite={},
    )
    with Checkpoints(workdir / name) as checkpoints:
        checkpoints.save(state, score)


def student(
    workdir: pathlib.Path,
    name: str,
    variables: dict,
    step: int = 3,
    score: float = 0.5,
    net: str = "student",
    **about: object,
) -> None:
    """Writes a workdir as a run leaves it, with a finished student, or a `net` of another name."""
    describe(workdir / name, ABOUT | {f"{net}_model": "resnet8"} | about)
    save(workdir, name, variables, step, score, net)
    config = {"data": {"name": "digits", "data_dir": "", "mean": MEAN, "std": STD}}
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "results.json").write_text(json.dumps([{"stage": name, "top1": 0.75, "top5": 0.9}]))


def logits(variables: dict) -> np.ndarray:
    """The logits [4, K] of a resnet8 for `IMAGE`."""
    view = (IMAGE.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.asarray(MODELS["resnet8"](num_classes=7).apply(variables, view).logits)
