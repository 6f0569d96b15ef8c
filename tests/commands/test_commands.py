"""The commands: what a person types, sees, and is told about mistakes."""

import json

import numpy as np
import pytest
from PIL import Image
from students import resnet8_variables, student

import sskd_jax
from sskd_jax.__main__ import COMMANDS, main
from sskd_jax.data import sources
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on the digits, which its student tells apart as ten classes."""
    folder = tmp_path_factory.mktemp("run")
    student(folder, "student", resnet8_variables(10), num_classes=10)
    return folder


def said(capsys, *argv: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command."""
    code = main(list(map(str, argv)))
    return code, *capsys.readouterr()


def test_help_lists_every_command(capsys):
    for argv in ([], ["--help"]):
        code, out, _ = said(capsys, *argv)
        assert code == 0 and all(f"\n  {name} " in out for name in COMMANDS)
    assert said(capsys, "--version")[:2] == (0, f"{sskd_jax.__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_own_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert "--" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_of_training_lists_names_and_keys(flag, capsys):
    with pytest.raises(SystemExit):
        main(["train", flag])
    words = set(capsys.readouterr().out.replace(",", " ").split())
    assert {*METHODS, *MODELS, "digits", "--workdir:", "STAGE.images.share", "data.pad"} <= words


@pytest.mark.parametrize(
    ("what", "some"),
    [
        ("methods", METHODS),
        ("networks", MODELS),
        ("datasets", ["cifar100", "digits"]),
        ("keys", ["STAGE.milestones", "STAGE.images.share", "data.size", "seed"]),
    ],
)
def test_lists(what, some, capsys):
    code, out, _ = said(capsys, "list", what)
    assert code == 0 and set(some) <= {line.split()[0] for line in out.splitlines()}


def test_evaluation_is_the_same_on_any_number_of_devices(workdir, capsys):
    texts = [said(capsys, "evaluate", workdir, f"--devices={n}")[1] for n in (1, 3)]
    (views, first), (again, second) = map(str.splitlines, texts)
    assert views == again and views == "views    mean (0.5, 0.4, 0.3), std (0.2, 0.3, 0.4)"
    assert "resnet8  digits, 450 test images  top1" in first
    assert first.split("(")[0] == second.split("(")[0]
    network = sskd_jax.load(workdir)
    test = sources.load("digits").test
    top1 = (network.logits(test.image).argmax(1) == test.label).mean()
    assert f"top1 {100 * top1:.2f} %" in first


def test_other_names_of_classes_are_told(workdir, capsys):
    file = workdir / "student/stage.json"
    about = json.loads(file.read_text())
    names = list(map(str, range(10)))
    for own in (names, ["zero", *names[1:]]):
        file.write_text(json.dumps(about | {"classes": own}))
        out = said(capsys, "evaluate", workdir)[1]
        told = "classes  number 0 is 'zero' to the network and '0' in the data" in out
        assert told == (own != names)
    file.write_text(json.dumps(about))


def test_a_file_is_measured_on_the_data_of_a_config(workdir, capsys):
    assert said(capsys, "export", workdir, "--out", workdir / "net.pth")[0] == 0
    code, out, _ = said(
        capsys, "evaluate", workdir / "net.pth", "--config=configs/quickstart.py", "--split=train"
    )
    assert code == 0 and "digits, 1347 train images" in out


def test_predictions(workdir, tmp_path, capsys):
    Image.fromarray(np.full((9, 8, 3), 200, np.uint8)).save(tmp_path / "grey.png")
    code, out, _ = said(capsys, "predict", workdir, tmp_path / "grey.png")
    assert code == 0 and "grey.png" in out and out.count(" %") == 3
    code, again, err = said(capsys, "predict", workdir, "nowhere.png", tmp_path / "grey.png", "no")
    assert code == 2 and again == out and err.count("\n") == 1
    assert "nowhere.png is no image" in err and "no is no image" in err


def test_a_file_that_knows_its_pixels_is_asked_for_no_others(workdir, capsys):
    said(capsys, "export", workdir, "--out", workdir / "net.pth")
    code, _, err = said(capsys, "predict", workdir / "net.pth", "a.png", "--mean", *"111")
    assert code == 2 and "net.pth has its own mean, std and size of images" in err
    assert err.endswith("omit mean (--mean)\n") and err.count("\n") == 1


def test_a_folder_that_takes_no_files_is_told(workdir, monkeypatch, capsys):
    def full(folder, runs):
        raise OSError(28, "No space left on device", str(folder / "curves.png"))

    monkeypatch.setattr("sskd_jax.workdir.report.plot_curves", full)
    row = {"stage": "student", "network": "resnet8", "parameters": 9, "top1": 0.5}
    (workdir / "results.json").write_text(json.dumps([row]))
    code, _, err = said(capsys, "report", workdir)
    assert code == 2 and err.startswith("error: [Errno 28] No space left") and err.count("\n") == 1


def test_a_report_is_shown_again(workdir, capsys):
    row = {"stage": "student", "network": "resnet8", "parameters": 9, "top1": 0.5}
    (workdir / "results.json").write_text(json.dumps([row]))
    code, out, _ = said(capsys, "report", workdir)
    assert code == 0 and "50.00" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evalute"], "unknown command 'evalute': did you mean 'evaluate'?"),
        (["evaluate", "nowhere"], "there is no "),
        (["evaluate", "{empty}"], "is no workdir: give --config=configs/cifar.py"),
        (["evaluate", "{run}/student"], "is a stage of a run: give {run}, and --stage=student"),
        (
            ["predict", "{run}", "a.png", "--size=8"],
            "{run} has its own mean, std and size of images: omit size (--size)",
        ),
        (
            ["predict", "{run}", "a.png", "--network=resnet8"],
            "--network is of a file, and {run} is a workdir, which knows its own",
        ),
        (["predict", "{empty}/net.onnx", "a.png"], "net.onnx is a program: give the .pth or"),
        (["evaluate", "{run}", "--stage=teacher"], "unknown stage 'teacher': choose from student"),
        (["evaluate", "{run}", "--devices=99"], "--devices=99: there are 8"),
        (["evaluate", "{run}", "--devices=0"], "--devices=0: there are 8"),
        (["evaluate", "{run}", "--config=nowhere.py"], "nowhere.py cannot be read"),
        (
            ["evaluate", "{run}", "--config={empty}/broken.py"],
            "error: invalid syntax (broken.py, line 1)",
        ),
        (["evaluate", "{run}", "--config={empty}/raises.py"], "/raises.py, line 1: KeyError: 'x'"),
        (["evaluate", "{run}", "--config={empty}/bare.py"], "bare.py has no function get_config"),
        (["predict", "net.pth", "a.png", "--size=-8"], "size is -8: give a whole number from 8 on"),
        (
            ["predict", "net.pth", "a.png", "--size=9", "--resize=8"],
            "resize is 8: give size, too, and no resize below it",
        ),
        (["prepare", "cifar10", "--source=x", "--held_out=.2"], "leave it out with cifar10"),
        (
            ["prepare", "imagefolder", "--source={empty}", "--held_out=.2"],
            "--held_out=0.2 is of a folder with CLASS/IMAGE alone: leave it out, or give --source=",
        ),
        (["predict", "{run}", "nowhere.png"], "nowhere.png is no image that can be read"),
        (["evaluate", "{empty}/several"], "holds several seeds: give one of them, such as "),
        (["report", "{empty}"], "has no results.json: give the workdir of a run that is done"),
    ],
)
def test_mistakes_are_one_line(argv, message, workdir, tmp_path, capsys):
    for folder in ("several/seed-0", "train"):
        (tmp_path / folder).mkdir(parents=True)
    for name, text in {"broken": "def get_config(:", "bare": "", "raises": "{}['x']"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    code, _, err = said(capsys, *(part.format(run=workdir, empty=tmp_path) for part in argv))
    assert code == 2 and err.count("\n") == 1
    assert message.format(run=workdir) in err
