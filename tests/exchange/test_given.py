"""What a stage starts from: weights of a file or of a finished stage, and what does not fit."""

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import torch_files
from tiny import planned, small_config, tiny_network

from sskd_jax.engine.loop import Job, first_state
from sskd_jax.exchange import torch_bridge
from sskd_jax.exchange.given import as_trained, load_given, load_start, started
from sskd_jax.types import UserError
from sskd_jax.workdir.checkpoint import Checkpoints
from sskd_jax.workdir.files import read_json
from sskd_jax.workdir.stages import describe


@pytest.fixture(scope="module", autouse=True)
def tiny_networks() -> Iterator[None]:
    with tiny_network():
        yield


def file(folder: Path, model: str = "tiny", classes: int = 10) -> Path:
    path = folder / f"{model}-{classes}.pth"
    path.write_bytes(torch_files.checkpoint("zip", torch_files.weights(model, classes)))
    return path


def beside(path: Path, **about: object) -> None:
    """Writes FILE.json, the record beside a file, of a network as this run has it."""
    own = {"model": "tiny", "mean": [0.31] * 3, "std": [0.38] * 3, "image": [8, 8, 3]}
    record = own | {"resize": 8, "classes": []} | about
    path.with_name(f"{path.name}.json").write_text(json.dumps(record))


def job_of(name: str = "teacher", **changes: object) -> Job:
    """A job of SSKD alone, or of the methods that `changes` names."""
    jobs = planned(small_config(**{"methods": ("sskd",)} | changes))
    return next(job for job in jobs if job.name == name)


@pytest.fixture(scope="module")
def plain(tiny_networks) -> dict[str, Job]:
    return {job.name: job for job in planned(small_config(methods=("scratch", "kd", "sskd")))}


def finish(workdir: Path, job: Job, **about: object) -> dict:
    """A finished stage of a workdir, without training: {"params", "batch_stats"} by net."""
    shapes = job.sketch.state
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: rng.random(leaf.shape).astype(leaf.dtype), shapes)
    state = state._replace(step=np.int32(job.total_steps))
    describe(workdir / job.name, job.about | dict(job.beside) | about)
    with Checkpoints(workdir / job.name) as checkpoints:
        checkpoints.save(state, 0.5)
    return state.variables


def assert_equal(ours: object, theirs: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def first(job: Job, path: Path) -> tuple[dict, str, dict]:
    """(variables of step 0 by net, the line, the record) of a job that starts from a path."""
    start = load_start(job._replace(start_from=str(path)))
    begun = started(job._replace(start_from=str(path)), start)
    return first_state(begun).variables, start.line, begun.beside["start"]


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_network_starts_from_a_file(ending, plain, tmp_path):
    from safetensors.numpy import save_file

    weights, path = torch_files.weights("tiny", 10), file(tmp_path)
    if ending == "safetensors":
        path = tmp_path / "tiny.safetensors"
        save_file(weights, path)
    found, line, record = first(plain["teacher"], path)
    assert_equal(found["teacher"], torch_bridge.from_state_dict("tiny", weights))
    assert line == f"starts from {path}"
    assert record["path"] == str(path) and record["num_classes"] == 10 and not record["steps"]


def test_another_number_of_classes_gets_the_classifier_that_it_would_have(plain, tmp_path):
    path, job = file(tmp_path, classes=7), plain["teacher"]
    found, line, _ = first(job, path)
    expected = torch_bridge.from_state_dict("tiny", torch_files.weights("tiny", 7))
    without = first_state(job).variables["teacher"]
    expected["params"]["fc"] = without["params"]["fc"]
    assert_equal(found["teacher"], expected)
    assert "its classifier is fresh, as that tells 7 classes apart and this dataset has 10" in line


def test_a_finished_stage_gives_all_of_its_nets_and_may_be_extended(plain, tmp_path):
    stored = finish(tmp_path, plain["sskd/student"])
    job = plain["sskd/student"]
    for path in (tmp_path, tmp_path / "sskd/student"):
        found, line, record = first(job, path)
        assert_equal(found, stored)
        assert line == f"starts from {tmp_path}/sskd/student, after 6 steps"
        assert record["steps"] == 6 and set(record["weights"]) == {"student", "head"}


def test_nets_that_a_start_lacks_begin_anew(plain, tmp_path):
    stored = finish(tmp_path, plain["scratch/student"])
    found, line, _ = first(plain["sskd/student"], tmp_path / "scratch/student")
    assert_equal(found["student"], stored["student"])
    assert_equal(found["head"], first_state(plain["sskd/student"]).variables["head"])
    assert line.endswith("; begins anew: head")


def test_a_teacher_starts_from_a_student(plain, tmp_path):
    stored = finish(tmp_path, plain["scratch/student"])
    found, _, _ = first(plain["teacher"], tmp_path / "scratch/student")
    assert_equal(found["teacher"], stored["student"])


def test_arrays_that_differ_in_more_than_the_classes_are_refused(plain, tmp_path):
    job = plain["teacher"]._replace(start_from=str(tmp_path))
    finish(tmp_path, job)
    own = job.sketch.state.params["teacher"]
    wider = own | {"fc": {"kernel": np.zeros((16, 11)), "bias": np.zeros(11)}}
    nested = own | {"fc": own["fc"] | {"kernel": np.zeros((16, 10, 1))}}
    deeper = own | {"extra": np.zeros(3)}
    for params, message in [
        (wider, r"does not fit this run: teacher/fc/\w+ has shape .*10\], not .*11\]$"),
        (nested, r"does not fit this run: teacher/fc/kernel has shape .*10\], not .*10, 1\]$"),
        (deeper, "does not fit the teacher of this run: only one of them has extra$"),
    ]:
        state = job.sketch.state._replace(params={"teacher": params})
        with pytest.raises(UserError, match=message):
            load_start(job._replace(sketch=job.sketch._replace(state=state)))


def test_what_does_not_fit_is_one_line(plain, tmp_path):
    teacher, student, head = (plain[name] for name in ("teacher", "kd/student", "sskd/head"))
    finish(tmp_path / "run", teacher)
    finish(tmp_path / "other", teacher, teacher_model="resnet20")
    finish(tmp_path / "two", plain["scratch/student"])
    finish(tmp_path / "two", student)
    mistakes = [
        (teacher, tmp_path / "nowhere.pth", "nowhere.pth cannot be read: No such file"),
        (teacher, file(tmp_path, "resnet8"), "resnet8: use --config.teacher.model=resnet8"),
        (student, file(tmp_path, "resnet8"), "resnet8: use --config.student.model=resnet8"),
        (head, file(tmp_path), "is no workdir: the stage head starts from a run of ours"),
        (head, tmp_path / "run/teacher", "holds nothing that the stage head could start from"),
        (student, tmp_path, "holds no student: give a workdir of a run that trained one"),
        (teacher, tmp_path / "other", "holds a resnet20, and the teacher is a tiny: use --config."),
        (
            student._replace(name="student"),
            tmp_path / "two",
            f"holds several: give --config.student.start_from={tmp_path}/two/kd/student|",
        ),
    ]
    for job, path, message in mistakes:
        with pytest.raises(UserError) as error:
            load_start(job._replace(start_from=str(path)))
        assert message in str(error.value) and "\n" not in str(error.value)


def test_a_start_that_would_have_no_effect_is_refused_when_a_run_is_planned():
    for changes, message in [
        (
            {"teacher.checkpoint": "a", "teacher.start_from": "b"},
            "teacher.checkpoint stands in place of training, so teacher.start_from would have no",
        ),
        (
            {"methods": ("ab",), "student.start_from": "a"},
            "the student goes on from the stage warmup, so student.start_from would leave that "
            "without effect: give warmup.start_from, or warmup.checkpoint, too",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            job_of(**changes)
    given = {"methods": ("ab",), "student.start_from": "a", "warmup.checkpoint": "a"}
    assert job_of("ab/student", **given).about["start_from"] == "a"


def test_the_record_of_a_run_says_how_a_stage_from_another_run_was_trained(plain, tmp_path):
    finish(tmp_path / "run", plain["teacher"])
    trained = {"epochs": 240, "images": {"share": 0.5}, "start_from": "elsewhere", "size": 16}
    (tmp_path / "run/config.json").write_text(json.dumps({"teacher": trained}))
    places = ("run", "run/teacher")
    for place in [*places, "absent", ""]:
        own = {"epochs": 2, "checkpoint": place and str(tmp_path / place), "start_from": ""}
        config = {"seed": 0, "teacher": own | {"size": 8}, "student": {"epochs": 3}}
        known = {"epochs": 240, "images": {"share": 0.5}, "start_from": "elsewhere"}
        expected = config["teacher"] | (known if place in places else {})
        assert as_trained(config, ["teacher"]) == config | {"teacher": expected}
    (tmp_path / "run/config.json").unlink()  # a stage that was copied alone
    config["teacher"]["checkpoint"] = str(tmp_path / "run")
    assert as_trained(config, ["teacher"]) == config
    config["head"] = {"checkpoint": str(tmp_path / "run")}  # of which this run has no need
    assert as_trained(config, ["teacher"]) == config


def test_a_checkpoint_that_saw_other_pixels_is_refused(plain, tmp_path):
    """Unless this run's teacher sees such pixels, too."""
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.2, 0.2]
    seen = {"normalisation": {"teacher": {"mean": mean, "std": std}}}
    stored = finish(tmp_path, plain["teacher"], **seen)
    given = {"teacher.checkpoint": str(tmp_path)}
    message = (
        r"teacher was trained with mean \[0.5, 0.4, 0.3\] and std \[0.2, 0.2, 0.2\], and this run "
        r"has \[0.31, 0.31, 0.31\] and \[0.38, 0.38, 0.38\]: give them as teacher.mean and "
    )
    with pytest.raises(UserError, match=message):
        load_given(job_of(**given))
    path = file(tmp_path)
    beside(path, mean=mean, std=std)
    with pytest.raises(UserError, match=message.replace("teacher was", "tiny-10.pth was")):
        load_given(job_of(**{"teacher.checkpoint": str(path)}))
    start = "; it was trained with mean [0.5, 0.4, 0.3] and std [0.2, 0.2, 0.2], and goes on with "
    for place in (path, tmp_path):
        line = first(plain["teacher"], place)[1]
        assert line.endswith(start + "[0.31, 0.31, 0.31] and [0.38, 0.38, 0.38]")
    job = job_of(**given, **{"teacher.mean": tuple(mean), "teacher.std": tuple(std)})
    assert_equal(load_given(job), stored)
    assert job.beside["normalisation"] == seen["normalisation"]


def test_the_architecture_of_an_exported_file_is_the_one_in_its_record(plain, tmp_path):
    """As weights of one may fit another: those of the two MobileNetV2 do."""
    path = file(tmp_path)
    beside(path, model="twin")
    message = "the teacher is a tiny: use --config.teacher.model=twin"
    with pytest.raises(UserError, match=message):
        load_given(job_of(**{"teacher.checkpoint": str(path)}))
    with pytest.raises(UserError, match=message):
        load_start(plain["teacher"]._replace(start_from=str(path)))


def test_a_checkpoint_for_classes_of_other_names_is_refused(plain, tmp_path):
    other = [*map(str, range(9)), "nine"]
    finish(tmp_path / "run", plain["teacher"], classes=other)
    path = file(tmp_path)
    beside(path, classes=other)
    for place in (tmp_path / "run", path):
        message = r"was trained with classes nine \(number 9\), and this run has 9: give "
        with pytest.raises(UserError, match=message):
            load_given(job_of(**{"teacher.checkpoint": str(place)}))
    finish(tmp_path / "unknown", plain["teacher"], classes=[])
    load_given(job_of(**{"teacher.checkpoint": str(tmp_path / "unknown")}))


def test_a_checkpoint_that_saw_images_of_another_size_asks_which_it_shall_see(plain, tmp_path):
    stored = finish(tmp_path / "data", plain["teacher"], image=[16, 16, 3])
    own = {"normalisation": {"teacher": {"image": [16, 16, 3]}}}
    finish(tmp_path / "own", plain["teacher"], **own)
    path = file(tmp_path)
    weights = {"teacher": torch_bridge.from_state_dict("tiny", torch_files.weights("tiny", 10))}
    beside(path, image=[16, 16, 3])
    for place in (tmp_path / "data", tmp_path / "own", path):
        given = {"teacher.checkpoint": str(place)}
        message = (
            "was trained on images of 16 pixels, and this run has 8: give --config.teacher.size=16 "
            "to bring them to that size for it, or --config.teacher.size=8 to show them as they are"
        )
        with pytest.raises(UserError, match=message):
            load_given(job_of(**given))
        for size in (8, 16):
            job = job_of(**given, **{"teacher.size": size})
            assert_equal(load_given(job), weights if place == path else stored)


def test_a_checkpoint_with_other_arrays_is_refused(plain, tmp_path):
    """A head for another task, which has the same name and term."""
    finish(tmp_path, plain["sskd/head"])
    assert load_given(plain["sskd/head"]._replace(checkpoint=str(tmp_path)))
    other = job_of("pretext/head", methods=("pretext",))._replace(checkpoint=str(tmp_path))
    with pytest.raises(UserError, match="head has another head than this run's: give one that"):
        load_given(other)


def test_a_checkpoint_of_other_images_is_taken(plain, tmp_path):
    stored = finish(tmp_path, plain["teacher"], dataset="other", images="9 with labels 00000000")
    assert_equal(load_given(job_of(**{"teacher.checkpoint": str(tmp_path)})), stored)


def test_a_workdir_of_before_says_no_pixels_and_is_taken(plain, tmp_path):
    finish(tmp_path, plain["teacher"], normalisation={})
    load_given(job_of(**{"teacher.checkpoint": str(tmp_path)}))
    assert read_json(tmp_path / "teacher/stage.json")["normalisation"] == {}
