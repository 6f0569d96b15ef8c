"""Students that are taken away: what is in their files, which need nothing of this package."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch_files
import yaml
from etils import epath
from golden import assert_near
from safetensors.numpy import load_file
from students import ABOUT, IMAGE, MEAN, STD, logits, resnet8_variables, save, student

from sskd_jax.__main__ import main
from sskd_jax.exchange import export, torch_bridge
from sskd_jax.exchange.export import FORMATS, export_network
from sskd_jax.types import Stopped, UserError
from sskd_jax.workdir.files import write_rows


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


def test_devices_that_cannot_be_had_are_no_damaged_checkpoint(workdir, monkeypatch):
    def refused():
        raise RuntimeError("no tpu")

    monkeypatch.setattr(jax, "devices", refused)
    with pytest.raises(UserError, match="JAX finds no devices .no tpu.: free them"):
        export_network(str(workdir), "pth")


@pytest.mark.parametrize("moment", ["write_bytes", "write_json"])
def test_an_export_that_was_cut_short_begins_anew(moment, workdir, monkeypatch):
    def cut(*_):
        raise Stopped("SIGTERM")

    export_network(str(workdir), "pth")
    monkeypatch.setattr(export, moment, cut)
    with pytest.raises(Stopped):
        export_network(str(workdir), "pth")
    # It is whole, or not there, as another one's record may stand beside it.
    assert (workdir / "sskd-student.pth").exists() == (moment == "write_bytes")
    monkeypatch.undo()
    assert "wrote sskd/student" in export_network(str(workdir), "pth")
    assert not list(workdir.glob(".*"))


NO_ONNX = importlib.util.find_spec("jax2onnx") is None
needs_onnx = pytest.mark.skipif(NO_ONNX, reason="needs the extra: pip install -e '.[onnx]'")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[needs_onnx] * (kind == "onnx")) for kind in FORMATS]
)
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
    said = export_network(str(workdir), "pth", out=str(workdir / "new/folder/mine.pth"))
    record = json.loads((workdir / "new/folder/mine.pth.json").read_text())
    assert said.endswith("README.md is its model card")
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


@needs_onnx
def test_onnxruntime_gives_the_same_logits_for_any_number_of_images(workdir, expected, tmp_path):
    import onnxruntime

    export_network(str(workdir), "onnx", out=str(tmp_path / "student.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"))
    for images in (IMAGE, IMAGE[:1]):
        (found,) = session.run(["logits"], {"image": images})
        assert_near(found, expected[: len(images)], 1e-4)


def test_the_command_leaves_accelerators_to_others(workdir, tmp_path):
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", None)
    try:
        assert main(["export", str(workdir), f"--out={tmp_path}/student.pth"]) == 0
        assert jax.config.jax_platforms == "cpu"
    finally:
        jax.config.update("jax_platforms", before)


def test_onnx_without_its_extra_says_what_to_install(workdir, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match="needs jax2onnx: pip install"):
        export_network(str(workdir), "onnx")


@pytest.fixture
def with_best(tmp_path, variables) -> pathlib.Path:
    """A workdir whose student was best after the second of its three epochs."""
    better = jax.tree.map(lambda leaf: 2 * leaf, variables)
    about = {"teacher_model": "resnet20", "steps": 15}
    student(tmp_path, "sskd/student", better, step=10, score=0.9, **about)
    save(tmp_path, "sskd/student", variables, step=15)
    row = {"stage": "sskd/student", "top1": 0.75, "best_top1": 0.8, "best_epoch": 2}
    (tmp_path / "results.json").write_text(json.dumps([row | {"method": "sskd"}]))
    versions = {"python": "3.11.7", "versions": {"jax": "0.10.2"}, "devices": ["cpu"] * 2}
    (tmp_path / "environments.json").write_text(json.dumps([versions]))
    times = [{"stage": "sskd/student", "step": 15, "seconds": 1.0, "environment": 0}]
    write_rows(epath.Path(tmp_path / "times.jsonl"), times)
    steps = {"sskd/student": 5, "teacher": 4}
    rows = [
        {"stage": stage, "epoch": epoch, "step": steps[stage] * epoch}
        for stage in steps
        for epoch in (1, 2, 3)
    ]
    write_rows(epath.Path(tmp_path / "metrics.jsonl"), rows)
    return tmp_path


def test_the_best_epoch_in_place_of_the_last(with_best, variables):
    assert main(["export", str(with_best), "--format=safetensors", "--best"]) == 0
    file = with_best / "sskd-student-best.safetensors"
    state = torch_bridge.to_state_dict("resnet8", variables)
    for name, array in load_file(file).items():
        np.testing.assert_array_equal(array, 2 * state[name])
    record = json.loads((with_best / f"{file.name}.json").read_text())
    assert record["epoch"] == "best" and record["steps"] == 10
    assert record["accuracy"] == {"top1": 0.8, "top5": None}


def test_a_best_epoch_that_is_not_known_is_one_line(workdir, capsys):
    assert main(["export", str(workdir), "--best"]) == 2
    assert "name no best epoch of sskd/student: finish that run first" in capsys.readouterr().err


def test_a_best_checkpoint_that_is_gone_is_one_line(with_best, capsys):
    shutil.rmtree(with_best / "sskd/student/10")
    assert main(["export", str(with_best), "--best"]) == 2
    assert "sskd/student has no checkpoint of step 10 any more" in capsys.readouterr().err


def test_the_teacher_too(workdir, variables):
    student(workdir, "teacher", variables, net="teacher")
    export_network(str(workdir), "pth", stage="teacher")
    state = torch_bridge.read_state_dict(workdir / "teacher.pth")
    assert set(state) == set(torch_files.weights("resnet8"))


def test_the_model_card_says_what_the_records_say(with_best):
    config = json.loads((with_best / "config.json").read_text())
    config["settings"] = {"sskd": {"weights": {"ce": 0.1, "kd": 0.9}}}
    (with_best / "config.json").write_text(json.dumps(config))
    export_network(str(with_best), "pth")
    card = (with_best / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    matter = yaml.safe_load(head)
    assert matter["license"] == "apache-2.0" and "sskd" in matter["tags"]
    (result,) = matter["model-index"][0]["results"]
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    assert [metric["value"] for metric in result["metrics"]] == [75.0]
    assert "datasets" not in matter  # the hub does not have it
    assert "| top-1, best epoch | 80.00 %, epoch 2, chosen on the test images themselves |" in body
    assert "| teacher | resnet20 |" in body and "| terms | 0.1 ce, 0.9 kd |" in body
    assert "| trained with | jax 0.10.2, Python 3.11.7, 2 x cpu |" in body
    assert "sskd-student.pth" in body and str(with_best) not in card


def test_the_model_card_of_a_run_whose_environments_were_deleted(with_best):
    (with_best / "environments.json").unlink()
    assert export_network(str(with_best), "pth").endswith("README.md is its model card")
    assert "trained with" not in (with_best / "README.md").read_text()


def test_the_model_card_names_a_dataset_of_the_hub(with_best):
    config = json.loads((with_best / "config.json").read_text())
    config["data"]["name"] = "cifar100"
    (with_best / "config.json").write_text(json.dumps(config))
    export_network(str(with_best), "pth")
    matter = yaml.safe_load((with_best / "README.md").read_text().split("---\n", 2)[1])
    assert matter["datasets"] == ["uoft-cs/cifar100"]
    (result,) = matter["model-index"][0]["results"]
    assert result["dataset"]["type"] == "uoft-cs/cifar100"


def test_the_model_card_of_a_run_that_is_not_done(with_best):
    (with_best / "results.json").unlink()
    export_network(str(with_best), "pth")
    _, head, body = (with_best / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["tags"] == ["jax", "knowledge-distillation", "sskd"]
    assert "# resnet8 (sskd) on digits" in body and "| method | sskd |" in body


def test_the_model_card_says_that_the_best_epoch_was_chosen_on_held_out_images(with_best):
    config = json.loads((with_best / "config.json").read_text())
    config["data"]["validation"] = 0.1
    (with_best / "config.json").write_text(json.dumps(config))
    export_network(str(with_best), "pth")
    assert "epoch 2, chosen on held-out training images |" in (with_best / "README.md").read_text()


def test_the_model_card_names_a_teacher_of_the_methods_own(with_best):
    (result,) = json.loads((with_best / "results.json").read_text())
    teacher = {"network": "resnet20", "stage": "teacher", "top1": 0.5}
    own = teacher | {"stage": "sskd/teacher", "top1": 0.6}
    for network, told in (("resnet20", ", top-1 60.00 %"), ("vgg13", "")):
        others = [row | {"network": network} for row in (teacher, own)]  # vgg13 is no teacher of it
        (with_best / "results.json").write_text(json.dumps([*others, result]))
        export_network(str(with_best), "pth", stage="sskd/student")
        assert f"| teacher | resnet20{told} |" in (with_best / "README.md").read_text()


def test_the_hub_reads_the_model_card(with_best):
    hub = pytest.importorskip("huggingface_hub", reason="comes with pip install -e '.[onnx]'")
    export_network(str(with_best), "pth")
    data = hub.ModelCard.load(with_best / "README.md").data
    assert data.eval_results[0].metric_value == 75.0 and data.pipeline_tag == "image-classification"


def test_a_readme_of_somebody_else_stays(workdir):
    (workdir / "README.md").write_bytes(b"# Mine, \xe9\n")  # in Latin-1
    assert "is not of ours and stays" in export_network(str(workdir), "pth")
    assert (workdir / "README.md").read_bytes() == b"# Mine, \xe9\n"


def test_where_a_file_goes(workdir, tmp_path):
    """A folder gets a file of the usual name; a file of the user's is never written over."""
    (tmp_path / "there").mkdir()
    for out in (f"{tmp_path}/there", f"{tmp_path}/new/"):
        export_network(str(workdir), "pth", out=out)
        assert (tmp_path / out / "sskd-student.pth").stat().st_size
        export_network(str(workdir), "pth", out=out)  # over an earlier export
    mine = tmp_path / "mine.pth"
    mine.write_bytes(b"mine")
    for out, message in (
        (mine, "mine.pth is there already, and no export, as no mine.pth.json is beside it"),
        (tmp_path / "README.md", "README.md is to be a pth file: give --out=NAME.pth"),
        (tmp_path / "net.onnx", "is to be a pth file: give --format=onnx, or --out=NAME.pth"),
    ):
        with pytest.raises(UserError, match=message):
            export_network(str(workdir), "pth", out=str(out))
    assert mine.read_bytes() == b"mine" and not (tmp_path / "README.md").exists()


def test_an_export_of_another_run_is_not_replaced(with_best, tmp_path_factory):
    models, other = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("other")
    student(other, "sskd/student", jax.tree.map(lambda leaf: -leaf, resnet8_variables()))
    export_network(str(with_best), "pth", out=str(models))
    before = (models / "sskd-student.pth").read_bytes()
    message = f"with a network of another run or stage: give --out={models}/NAME.pth, or delete it"
    with pytest.raises(UserError, match=message):
        export_network(str(other), "pth", out=str(models))
    assert (models / "sskd-student.pth").read_bytes() == before
    export_network(str(with_best), "pth", best=True, out=str(models / "sskd-student.pth"))
    assert (models / "sskd-student.pth").read_bytes() != before


def test_mistakes_are_one_line(workdir, variables, tmp_path_factory, capsys):
    def said(*args: str) -> str:
        assert main(["export", *args]) == 2
        return capsys.readouterr().err

    assert "holds no student: give the workdir" in said(str(tmp_path_factory.mktemp("empty")))
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
    assert set(FORMATS) == {"pth", "safetensors", "stablehlo", "onnx"}
