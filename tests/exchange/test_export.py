"""Students that are taken away: what is in their files, which need nothing of this package."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch_files
from golden import assert_near
from safetensors.numpy import load_file
from students import ABOUT, IMAGE, MEAN, STD, logits, resnet8_variables, student

from sskd_jax.exchange import torch_bridge
from sskd_jax.exchange.export import FORMATS, export_network, main


@pytest.fixture(scope="module")
def variables() -> dict:
    return resnet8_variables()


@pytest.fixture
def workdir(tmp_path, variables) -> pathlib.Path:
    student(tmp_path, "sskd/student", variables)
    return tmp_path


@pytest.fixture(scope="module")
def expected(variables) -> np.ndarray:
    return logits(variables)


@pytest.mark.parametrize(
    ("kind", "read"), [("pth", torch_bridge.read_state_dict), ("safetensors", load_file)]
)
def test_weights_alone_by_pytorchs_names(kind, read, workdir, expected):
    assert "wrote sskd/student, a resnet8, to" in export_network(str(workdir), kind)
    state = read(workdir / f"sskd-student.{kind}")
    assert set(state) == set(torch_files.weights("resnet8"))
    np.testing.assert_array_equal(logits(torch_bridge.from_state_dict("resnet8", state)), expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_weights_give_the_same_file_at_any_time_and_place(kind, workdir, monkeypatch):
    file = workdir / f"sskd-student.{kind}"

    def export_at(seconds: float) -> bytes:
        monkeypatch.setattr("time.time", lambda: seconds)
        export_network(str(workdir), kind)
        return file.read_bytes()

    before = export_at(1e9)
    assert export_at(2e9) == before
    assert b"sskd_jax/" not in before  # no path of the files that made it


def test_the_record_says_what_it_expects_and_what_it_reached(workdir):
    export_network(str(workdir), "pth", out=str(workdir / "mine.pth"))
    record = json.loads((workdir / "mine.pth.json").read_text())
    assert record["accuracy"] == {"top1": 0.75, "top5": 0.9} and record["model"] == "resnet8"
    assert (record["mean"], record["std"], record["image"]) == (list(MEAN), list(STD), [8, 8, 3])


def test_the_program_runs_without_this_package_for_any_number_of_images(
    workdir, expected, tmp_path
):
    export_network(str(workdir), "stablehlo", out=str(tmp_path / "student.stablehlo"))
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
    assert "cannot write" in said(str(workdir), "--out=/proc/nowhere/student.pth")
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
