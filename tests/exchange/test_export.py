"""Students that are taken away: what is in their files, which need nothing of this package."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch_files
from golden import assert_near
from safetensors.numpy import load_file

from sskd_jax.engine.task import TrainState
from sskd_jax.exchange import torch_bridge
from sskd_jax.exchange.export import FORMATS, export_student, main
from sskd_jax.models import MODELS
from sskd_jax.workdir.checkpoint import Checkpoints
from sskd_jax.workdir.stages import describe

ABOUT = {"student_model": "resnet8", "num_classes": 7, "image": [8, 8, 3], "steps": 3}
IMAGE = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def variables() -> dict:
    weights = torch_bridge.from_state_dict("resnet8", torch_files.weights("resnet8"))
    return weights | {
        "batch_stats": jax.tree.map(lambda leaf: np.abs(leaf) + 1, weights["batch_stats"])
    }


def student(workdir: pathlib.Path, name: str, variables: dict, step: int = 3) -> None:
    """A workdir's student, as a run leaves it: beside a head of the method's own."""
    describe(workdir / name, ABOUT)
    state = TrainState(
        step=np.int32(step),
        params={"student": variables["params"], "head": {"bias": np.ones(3, np.float32)}},
        batch_stats={"student": variables["batch_stats"], "head": {}},
        opt_state={},
        memory={},
        sums={},
        first_nonfinite={},
    )
    with Checkpoints(workdir / name) as checkpoints:
        checkpoints.save(state, 0.5)
    config = {"data": {"name": "digits", "mean": MEAN, "std": STD}}
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "results.json").write_text(json.dumps([{"stage": name, "top1": 0.75, "top5": 0.9}]))


@pytest.fixture
def workdir(tmp_path, variables) -> pathlib.Path:
    student(tmp_path, "sskd/student", variables)
    return tmp_path


@pytest.fixture(scope="module")
def expected(variables) -> np.ndarray:
    return logits(variables)


def logits(variables: dict) -> np.ndarray:
    view = (IMAGE.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.asarray(MODELS["resnet8"](num_classes=7).apply(variables, view).logits)


@pytest.mark.parametrize(
    ("kind", "read"), [("pth", torch_bridge.read_pth), ("safetensors", load_file)]
)
def test_weights_alone_by_pytorchs_names(kind, read, workdir, expected):
    assert "wrote sskd/student, a resnet8, to" in export_student(str(workdir), kind)
    state = read(workdir / f"sskd-student.{kind}")
    assert set(state) == set(torch_files.weights("resnet8"))
    np.testing.assert_array_equal(logits(torch_bridge.from_state_dict("resnet8", state)), expected)


def test_the_record_says_what_it_expects_and_what_it_reached(workdir):
    export_student(str(workdir), "pth", out=str(workdir / "mine.pth"))
    record = json.loads((workdir / "mine.pth.json").read_text())
    assert record["accuracy"] == {"top1": 0.75, "top5": 0.9} and record["model"] == "resnet8"
    assert (record["mean"], record["std"], record["image"]) == (list(MEAN), list(STD), [8, 8, 3])


def test_the_program_runs_without_this_package_for_any_number_of_images(
    workdir, expected, tmp_path
):
    export_student(str(workdir), "stablehlo", out=str(tmp_path / "student.stablehlo"))
    np.save(tmp_path / "image.npy", IMAGE)
    program = (
        "import jax, numpy, sys; from jax import export; image = numpy.load('image.npy');"
        "call = export.deserialize(bytearray(open('student.stablehlo', 'rb').read())).call;"
        "numpy.save('logits.npy', call(image)); assert call(image[:1]).shape == (1, 7);"
        "assert not [name for name in sys.modules if name.startswith('sskd_jax')]"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert_near(np.load(tmp_path / "logits.npy"), expected, 1e-4)


def test_mistakes_are_one_line(workdir, variables, tmp_path_factory, capsys):
    def said(*args: str) -> str:
        assert main(["--workdir", *args]) == 2
        return capsys.readouterr().err

    assert "holds no student: give the --workdir" in said(str(tmp_path_factory.mktemp("empty")))
    assert "cannot write" in said(str(workdir), "--out=/nowhere/student.pth")
    student(workdir, "kd/student", variables, step=2)
    assert "several students: choose one with --stage=kd/student|sskd/student" in said(str(workdir))
    assert "unknown stage 'kd/studen': did you mean 'kd/student'?" in said(
        str(workdir), "--stage=kd/studen"
    )
    assert "is at step 2 of 3: finish that run first" in said(str(workdir), "--stage=kd/student")
    (workdir / "kd/student/stage.json").write_text(json.dumps(ABOUT | {"model": "resnet8"}))
    assert "kd/student was trained by another version of sskd_jax" in said(
        str(workdir), "--stage=kd/student"
    )
    assert set(FORMATS) == {"pth", "safetensors", "stablehlo"}
