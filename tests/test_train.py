"""Whole runs of a tiny network on the digits: every stage and hand-over, restarts, and mistakes."""

import contextlib
import json
import pathlib
import shutil
import zlib
from collections.abc import Iterator
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch_files
from etils import epath
from tiny import LONG_TAILED, TinyNet, small_config, tiny_network

import sskd_jax
from configs import cifar, extend
from sskd_jax import plan, train
from sskd_jax.commands.evaluate import evaluate
from sskd_jax.data import sources
from sskd_jax.engine.devices import run_once
from sskd_jax.exchange import torch_bridge
from sskd_jax.exchange.export import export_network
from sskd_jax.types import UserError
from sskd_jax.workdir.checkpoint import Checkpoints, read_newest

STAGES = ("teacher", "scratch/student", "kd/student", "sskd/head", "sskd/student")


@pytest.fixture(scope="module", autouse=True)
def tiny_networks() -> Iterator[None]:
    with tiny_network():
        yield


def run(config, workdir: pathlib.Path):
    return train.run(config, str(workdir), jax.devices()[:1])


def rows(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def final_state(workdir: pathlib.Path, stage: str):
    with Checkpoints(workdir / stage) as checkpoints:
        return checkpoints.newest()


def assert_same_states(ours: pathlib.Path, theirs: pathlib.Path, *stages: str) -> None:
    """The last checkpoints of these stages have the same bits."""
    for stage in stages:
        states = (final_state(workdir, stage) for workdir in (ours, theirs))
        jax.tree.map(np.testing.assert_array_equal, *states)


@contextlib.contextmanager
def stop_behind(step: int, stage: str) -> Iterator[None]:
    """Ends the process, as far as a test can, once a stage's checkpoint of a step is written."""
    save = Checkpoints.save

    def save_and_stop(self, state, score=None):
        save(self, state, score)
        if int(state.step) == step and str(self.folder).endswith(stage):
            self.wait()
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("sskd_jax.engine.loop.DISPATCH_SECONDS", 0.0)
        patch.setattr(Checkpoints, "save", save_and_stop)
        yield


@pytest.fixture(scope="module")
def finished(tiny_networks, tmp_path_factory):
    """(workdir, table) of scratch, KD and SSKD."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, run(small_config(), workdir)


@pytest.mark.slow
def test_several_seeds_are_runs_of_their_own(tmp_path):
    runs = train.by_seed(small_config(seed=4, seeds=2), tmp_path)
    assert [folder.name for _, folder in runs] == ["seed-4", "seed-5"]
    assert [(config.seed, config.seeds) for config, _ in runs] == [(4, 1), (5, 1)]
    with pytest.raises(UserError, match="seed is 2147483648"):  # before the first one is trained
        train.by_seed(small_config(seed=2**31 - 1, seeds=2), tmp_path)


def test_seeds_of_another_config_are_refused(tmp_path):
    """Before anything is trained, and even if this run has not that seed: its table would."""
    config = small_config(seed=3, seeds=2, until="teacher", **{"teacher.epochs": 1})
    seed = tmp_path / "seed-7"
    (seed / "teacher" / "3").mkdir(parents=True)
    (seed / "teacher" / "stage.json").write_text("{}")
    (seed / "config.json").write_text(json.dumps(config.to_dict() | {"seed": 7}))
    train.by_seed(config, epath.Path(tmp_path))
    config.student.learning_rate = 0.7
    with pytest.raises(UserError, match="seed-7 holds a run with another config .student.learning"):
        train.by_seed(config, epath.Path(tmp_path))


@pytest.mark.slow
def test_seeds_are_trained_one_after_the_other(tmp_path, capsys):
    """A run of one seed that was moved there is the first of them."""
    config = small_config(seed=3, until="teacher", **{"teacher.epochs": 1})
    run(config, tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "seed-3")
    before = (tmp_path / "seed-3" / "metrics.jsonl").read_bytes()
    config.seeds = 2
    table = run(config, tmp_path)
    assert (tmp_path / "seed-3" / "metrics.jsonl").read_bytes() == before
    assert [(row["seed"], row["stage"]) for row in table] == [(3, "teacher"), (4, "teacher")]
    assert "seed-3" in capsys.readouterr().out
    weights = []
    for seed in (3, 4):
        folder = tmp_path / f"seed-{seed}"
        assert json.loads((folder / "config.json").read_text())["seed"] == seed
        params = read_newest(epath.Path(folder / "teacher"))["params"]["teacher"]
        weights.append(params["conv1"]["kernel"])
    assert not np.allclose(*weights)


def test_every_stage_leaves_its_record(finished):
    workdir, table = finished
    epochs = [(name, n) for name in STAGES for n in (1, 2)]
    assert [(row["stage"], row["epoch"]) for row in rows(workdir)] == epochs
    # A row for every network; the head is none.
    assert [row["stage"] for row in table] == [name for name in STAGES if "head" not in name]
    for file in ("config.json", "environments.json", "times.jsonl", "results.json", "curves.png"):
        assert (workdir / file).stat().st_size > 100, file
    charts = sorted((workdir / "tensorboard").rglob("*tfevents*"))
    assert [str(file.parent.relative_to(workdir / "tensorboard")) for file in charts] == sorted(
        STAGES
    )
    last = {row["stage"]: row for row in rows(workdir)}
    for row in table:
        np.testing.assert_allclose(row["top1"], last[row["stage"]]["test/top1"], rtol=1e-6)
        best = next(
            one["test/top1"]
            for one in rows(workdir)
            if (one["stage"], one["epoch"]) == (row["stage"], row["best_epoch"])
        )
        np.testing.assert_allclose(row["best_top1"], best, rtol=1e-6)
    assert 0 <= last["sskd/head"]["test/contrastive"] <= 1
    rates = [row["learning_rate"] for row in rows(workdir)]
    np.testing.assert_allclose(rates, [0.05, 0.005] * 5, rtol=1e-6)


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(finished, capsys):
    workdir, table = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    assert run(small_config(), workdir) == table
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert capsys.readouterr().out.count("done at step 6") == len(STAGES)


@pytest.mark.slow
def test_the_same_run_again_gives_the_same_bits(finished, tmp_path):
    """Of one method, through what the others share with it."""
    workdir, table = finished
    config, stages = small_config(), ("teacher", "sskd/head", "sskd/student")
    config.methods = ("sskd",)
    assert run(config, tmp_path) == [table[0], table[-1]]
    assert rows(tmp_path) == [row for row in rows(workdir) if row["stage"] in stages]
    assert_same_states(tmp_path, workdir, *stages)


@pytest.mark.slow
def test_a_restart_changes_no_bit(finished, tmp_path):
    """Stops in the middle of the last stage's second epoch, after a checkpoint within it."""
    workdir, table = finished
    with stop_behind(4, "sskd/student"):
        run(small_config(save_seconds=0.0), tmp_path)
    assert run(small_config(), tmp_path) == table
    assert rows(tmp_path) == rows(workdir)
    assert_same_states(tmp_path, workdir, *STAGES)


def others_config(finished, *methods: str, **changes):
    """An epoch of every stage on the teacher of another run."""
    stages = ("warmup", "paraphraser", "branches", *LONG_TAILED, "student")
    epochs = {f"{stage}.epochs": 1 for stage in stages}
    config = small_config(**epochs, **{"teacher.checkpoint": str(finished[0])}, **changes)
    config.methods = methods
    return config


# Methods with stages, networks, a memory, an order or momenta of their own. Those for streams of
# tasks are trained in tests of their own; and every stage takes a step on 1, 2 and 8 devices.
OTHERS = ("ab", "ft", "crd", "fsp", "reviewkd", "ctkd", "dot", "pretext", "hsakd", "hssakd")
OTHERS += ("ssd_lt", "logit_adjustment", "ldam", "decoupled", "fitnet+kd")


@pytest.fixture(scope="module")
def others(finished, tmp_path_factory):
    """(workdir, table) of `OTHERS`, taught by the teacher of `finished`."""
    workdir = tmp_path_factory.mktemp("others")
    return workdir, run(others_config(finished, *OTHERS), workdir)


@pytest.mark.slow
def test_methods_with_more_than_a_student_train(others):
    workdir, table = others
    students = [row["stage"] for row in table[1:] if "net" not in row]
    assert [name for name in students if name.endswith("/student")] == [
        f"{name}/student" for name in OTHERS
    ]
    before = {"ab/warmup", "fsp/warmup", "ft/paraphraser", "hsakd/branches", "pretext/head"}
    assert {row["stage"] for row in rows(workdir)} == {*students, *before}
    for row in rows(workdir):
        losses = {name: value for name, value in row.items() if name.startswith("train/")}
        assert all(np.isfinite(value) for value in losses.values()) and len(losses) > 1
    # In its first epoch, ReviewKD is cross-entropy alone; so is the network that a classifier is
    # decoupled from. No two others have one loss.
    first = {row["stage"]: row["train/loss"] for row in rows(workdir) if row["epoch"] == 1}
    reviewkd = first.pop("reviewkd/student")
    assert reviewkd == pytest.approx(first["decoupled/student"], rel=1e-5)
    assert len(set(first.values())) == len(first)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ldam/student", "decoupled/classifier"])
def test_a_student_whose_method_has_a_classifier_of_its_own_is_evaluated_with_it(others, stage):
    workdir, table = others
    (row,) = (row for row in table if row["stage"] == stage)
    student = sskd_jax.load(workdir, stage=stage)
    found = evaluate(student, sources.load("digits", None), "test", jax.devices()[:1])
    assert found["top1"] == row["top1"]


@pytest.mark.slow
def test_warmed_up_students_start_from_their_warm_up(others):
    warm, student = (
        final_state(others[0], f"fsp/{name}")["params"]["student"] for name in ("warmup", "student")
    )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), warm, student)
    assert 0 < moved["conv1"]["kernel"] < 0.2 * np.abs(warm["conv1"]["kernel"]).max()
    key = jax.random.fold_in(jax.random.PRNGKey(0), zlib.crc32(b"student"))
    image = np.zeros((2, 8, 8, 3), np.float32)
    start = run_once(TinyNet(num_classes=10).init, key, image)["params"]
    # No class is learned in a warm-up, so there the classifier does not decay, either.
    jax.tree.map(np.testing.assert_array_equal, warm["fc"], start["fc"])
    assert np.abs(warm["conv1"]["kernel"] - start["conv1"]["kernel"]).max() > 0


def test_scores_are_those_of_the_nets_with_whose_names_they_begin():
    """A frozen net has none: another stage made it."""
    nets = ("student", "peer", "peer_a")
    state = SimpleNamespace(params=dict.fromkeys(nets))
    job = SimpleNamespace(
        kind="student",
        networks=dict.fromkeys((*nets, "teacher"), "tiny"),
        sketch=SimpleNamespace(state=state),
    )
    scores = {"top1": 0.1, "peer_top1": 0.2, "peer_a_top1": 0.3, "teacher_agreement": 0.4}
    assert train.scores_by_net(job, scores) == {
        "student": {"top1": 0.1, "teacher_agreement": 0.4},
        "peer": {"top1": 0.2},
        "peer_a": {"top1": 0.3},
    }


@pytest.mark.slow
def test_two_that_teach_each_other_are_both_in_the_table(others):
    """With the accuracies that the last epoch had."""
    workdir, table = others
    student, peer = (row for row in table if row["stage"] == "hssakd/student")
    (last,) = (row for row in rows(workdir) if row["stage"] == "hssakd/student")
    assert "net" not in student and peer["net"] == "peer"
    for row, prefix in ((student, "test/"), (peer, "test/peer_")):
        assert row["network"] == "tiny" and row["parameters"] == 2178
        for name in ("top1", "top5", "loss", "best_top1"):
            expected = last[prefix + name.removeprefix("best_")]
            np.testing.assert_allclose(row[name], expected, rtol=1e-5)
    assert student["top1"] != peer["top1"] or student["loss"] != peer["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hsakd/student", "hssakd/student", "hssakd/peer"])
def test_an_exported_network_is_that_alone(name, others, tmp_path):
    workdir, _ = others
    export_network(str(workdir), "pth", name, str(tmp_path / "net.pth"))
    found, num_classes = torch_bridge.load_weights(tmp_path / "net.pth", "tiny")
    method, net = name.split("/")
    state = final_state(workdir, f"{method}/student")
    assert num_classes == 10 and {net, f"{net}_branches"} <= set(state["params"])
    for key in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, found[key], state[key][net])


@pytest.mark.slow
def test_warm_ups_memories_branches_and_peers_survive_a_restart(finished, others, tmp_path):
    config = others_config(finished, "ab", "crd", "hsakd", "hssakd", save_seconds=0.0)
    for stage in ("ab/warmup", "crd/student", "hsakd/branches", "hssakd/student"):
        with stop_behind(2, stage):
            run(config, tmp_path)
    run(config, tmp_path)
    stages = ("ab/warmup", "ab/student", "crd/student", "hsakd/branches", "hsakd/student")
    assert_same_states(tmp_path, others[0], *stages, "hssakd/student")


def from_released_code(backbone: dict, branches: dict) -> bytes:
    """A file as HSAKD's code writes it, with the teacher of one state and the branches of another.

    That is what two stages left, or one and the same.
    """
    tensors = {}
    for prefix, name, net, state in (
        ("backbone", "tiny", "teacher", backbone),
        ("auxiliary_classifier", "tiny.branches", "teacher_branches", branches),
    ):
        variables = {key: state[key][net] for key in ("params", "batch_stats")}
        weights = torch_bridge.to_state_dict(name, variables)
        tensors |= {f"module.{prefix}.{key}": array for key, array in weights.items()}
    return torch_files.checkpoint("zip", tensors, lambda state: {"acc": 0.8, "net": state})


@pytest.fixture(scope="module")
def joint(tiny_networks, tmp_path_factory):
    """The workdir of a teacher that learns with its branches and of its student."""
    workdir = tmp_path_factory.mktemp("joint")
    run(joint_config(), workdir)
    return workdir


def joint_config(**changes):
    config = small_config(**{"teacher.epochs": 1, "student.epochs": 1}, **changes)
    config.methods = ("hsakd_joint",)
    return config


@pytest.mark.slow
def test_a_teacher_that_learns_with_its_branches_survives_a_restart(joint, tmp_path):
    config, stages = joint_config(save_seconds=0.0), ("hsakd_joint/teacher", "hsakd_joint/student")
    with stop_behind(2, stages[0]):
        run(config, tmp_path)
    run(config, tmp_path)
    assert_same_states(tmp_path, joint, *stages)


@pytest.mark.slow
def test_a_teacher_with_its_branches_from_pytorch(joint, tmp_path):
    """The student is that of the teacher that was trained here."""
    path, teacher = tmp_path / "teacher.pth", final_state(joint, "hsakd_joint/teacher")
    path.write_bytes(from_released_code(teacher, teacher))
    run(joint_config(**{"teacher.checkpoint": str(path)}), tmp_path / "run")
    assert_same_states(tmp_path / "run", joint, "hsakd_joint/student")


@pytest.mark.slow
def test_branches_from_pytorch_belong_to_the_teacher_beside_them(finished, others, joint, tmp_path):
    teacher, branches = (
        final_state(workdir, stage)
        for workdir, stage in ((finished[0], "teacher"), (others[0], "hsakd/branches"))
    )
    path = tmp_path / "teacher.pth"
    path.write_bytes(from_released_code(teacher, branches))
    config = others_config(finished, "hsakd", **{"branches.checkpoint": str(path)})
    run(config, tmp_path / "run")
    assert_same_states(tmp_path / "run", others[0], "hsakd/student")
    other = final_state(joint, "hsakd_joint/teacher")
    path.write_bytes(from_released_code(other, other))
    message = "holds branches of another teacher than this run has: give --config.teacher.check"
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "another")


@pytest.mark.slow
def test_teacher_and_head_of_another_workdir(finished, tmp_path):
    workdir, table = finished
    source = {"teacher.checkpoint": str(workdir), "head.checkpoint": str(workdir)}
    config = small_config(**source)
    config.methods = ("sskd",)
    found = run(config, tmp_path)
    assert_same_states(tmp_path, workdir, "sskd/student")
    assert found[-1]["top1"] == table[-1]["top1"]
    assert found[0]["top1"] == table[0]["top1"] and "best_top1" not in found[0]
    assert not (tmp_path / "teacher").exists() and not (tmp_path / "sskd/head").exists()


@pytest.mark.slow
def test_every_stage_may_come_from_elsewhere(finished, tmp_path):
    """Then nothing is trained, and the table is that of the other run without its best epochs."""
    workdir, table = finished
    stages = ("teacher", "head", "student")
    config = small_config(**{f"{stage}.checkpoint": str(workdir) for stage in stages})
    found = run(config, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
    kept = [
        {key: value for key, value in row.items() if not key.startswith("best_")} for row in table
    ]
    assert found == kept


@pytest.mark.slow
def test_a_teacher_from_pytorch(finished, tmp_path):
    """Its weights are those of a teacher of ours, and so are then the student's."""
    workdir, table = finished
    state = final_state(workdir, "teacher")
    teacher = {key: state[key]["teacher"] for key in ("params", "batch_stats")}
    weights = torch_bridge.to_state_dict("tiny", teacher)
    (tmp_path / "teacher.pth").write_bytes(torch_files.checkpoint("zip", weights))
    config = small_config(**{"teacher.checkpoint": str(tmp_path / "teacher.pth")})
    config.methods = ("kd",)
    found = run(config, tmp_path / "run")
    assert_same_states(tmp_path / "run", workdir, "kd/student")
    assert found[0]["top1"] == table[0]["top1"] and found[0]["stage"] == "teacher"


@pytest.mark.slow
def test_a_started_teacher_goes_on_without_its_file(tmp_path, capsys):
    """It reads the file once, and another start is another run."""
    weights = {name: x / 10 for name, x in torch_files.weights("tiny", num_classes=7).items()}
    weights |= {key: np.abs(x) for key, x in weights.items() if key.endswith("running_var")}
    path, whole, cut = (tmp_path / name for name in ("seven.pth", "whole", "cut"))
    path.write_bytes(torch_files.checkpoint("zip", weights))
    given = {"until": "teacher", "save_seconds": 0.0}
    config = small_config(**{"teacher.start_from": str(path)}, **given)
    (row,) = run(config, whole)
    assert row["start_from"] == str(path)
    with stop_behind(4, "teacher"):
        run(config, cut)
    path.unlink()
    assert "its classifier is fresh" in capsys.readouterr().out
    assert run(config, cut) == [row]
    assert "its classifier is fresh" not in capsys.readouterr().out
    assert rows(cut) == rows(whole)
    assert_same_states(cut, whole, "teacher")
    about = [json.loads((run / "teacher/stage.json").read_text()) for run in (cut, whole)]
    assert about[0] == about[1] and about[0]["start"]["num_classes"] == 7
    for other in ("", str(tmp_path / "other.pth")):
        with pytest.raises(UserError, match="teacher.start_from was .*seven.pth, is "):
            run(small_config(**{"teacher.start_from": other}, **given), cut)


@pytest.mark.slow
def test_more_epochs_on_a_finished_run(finished, tmp_path):
    """Students go on from their last weights, and nothing before them is trained again."""
    workdir, table = finished
    config = extend.get_config(f"run={workdir},epochs=1")
    config.student.learning_rate = 1e-9
    found = run(config, tmp_path)
    students = [name for name in STAGES if name.endswith("student")]
    assert [row["stage"] for row in rows(tmp_path)] == students
    for name in students:
        ours, theirs = (final_state(folder, name) for folder in (tmp_path, workdir))
        assert int(ours["step"]) == 3 and set(ours["params"]) == set(theirs["params"])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            ours["params"],
            theirs["params"],
        )
        start = json.loads((tmp_path / name / "stage.json").read_text())["start"]
        assert (start["path"], start["steps"]) == (str(workdir / name), 6)
    assert [row.get("start_from") for row in found] == [None] + [str(workdir)] * 3
    assert found[0]["top1"] == table[0]["top1"]


@pytest.mark.slow
def test_a_teacher_sees_pixels_by_a_mean_and_deviation_of_its_own(tmp_path):
    """It is then the teacher of a run whose data have these, and is exported with them."""
    mean, std = (0.5, 0.2, 0.1), (0.2, 0.3, 0.9)
    states = []
    for section in ("teacher", "data"):
        own = {f"{section}.mean": mean, f"{section}.std": std}
        run(small_config(**own, **{"until": "teacher", "teacher.epochs": 1}), tmp_path / section)
        states.append(final_state(tmp_path / section, "teacher")["params"])
        record = sskd_jax.load(tmp_path / section, stage="teacher").record
        assert (tuple(record["mean"]), tuple(record["std"])) == (mean, std)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *states)


def test_a_teacher_sees_images_of_a_size_of_its_own_wherever_it_is_used(tmp_path):
    own = {"teacher.size": 16, "teacher.epochs": 1, "until": "teacher"}
    (row,) = run(small_config(**own), tmp_path)
    teacher = sskd_jax.load(tmp_path, stage="teacher")
    assert teacher.sizes == (16, 16)
    digits = sources.load("digits", None)
    found = evaluate(teacher, digits, "test", jax.devices()[:1])
    assert found["top1"] == row["top1"]
    resized = np.asarray(jax.image.resize(digits.test.image / 255.0, (450, 16, 16, 3), "bilinear"))
    likely = teacher.predict((255 * resized).round().astype(np.uint8)).argmax(1)
    assert np.mean(likely == digits.test.label) == pytest.approx(row["top1"], abs=0.01)


@pytest.mark.slow
def test_a_head_that_was_trained_on_another_teacher_is_refused(finished, tmp_path):
    weights = torch_files.weights("tiny", num_classes=10)
    weights |= {key: np.abs(x) for key, x in weights.items() if key.endswith("running_var")}
    (tmp_path / "other.pth").write_bytes(torch_files.checkpoint("zip", weights))
    other, head = str(tmp_path / "other.pth"), str(finished[0])
    config = small_config(**{"teacher.checkpoint": other, "head.checkpoint": head})
    config.methods = ("sskd",)
    message = "head was trained with teacher_weights .*: give the config that it was trained with"
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "run")


@pytest.mark.slow
def test_a_given_head_needs_its_teacher_before_another_is_trained(finished, tmp_path):
    config, workdir = small_config(**{"head.checkpoint": str(finished[0])}), tmp_path / "run"
    message = "has a head of another teacher than this run would train: give --config.teacher.check"
    with pytest.raises(UserError, match=message):
        run(config, workdir)
    file = tmp_path / "student.pth"  # of one network, which fits any teacher
    file.write_bytes(torch_files.checkpoint("zip", torch_files.weights("tiny", num_classes=10)))
    config = small_config(methods=("kd",), **{"student.checkpoint": str(file), "until": "teacher"})
    run(config, tmp_path / "kd")
    assert not (workdir / "teacher").exists()


@pytest.mark.slow
def test_only_networks_come_from_pytorch(finished, tmp_path):
    (tmp_path / "head.pth").touch()
    head = {"head.checkpoint": str(tmp_path / "head.pth"), "teacher.checkpoint": str(finished[0])}
    config = small_config(**head)
    config.methods = ("sskd",)
    with pytest.raises(UserError, match="head.pth is no workdir: the stage head comes from a run"):
        run(config, tmp_path / "run")


@pytest.mark.slow
def test_another_config_or_teacher_is_refused(finished, tmp_path):
    workdir, _ = finished
    with pytest.raises(UserError, match="student.learning_rate was 0.05, is 0.1"):
        run(small_config(**{"student.learning_rate": 0.1}), workdir)
    other = {"teacher.checkpoint": str(workdir), "teacher.model": "resnet8"}
    message = "was trained with teacher_model tiny, and this run has resnet8"
    with pytest.raises(UserError, match=message):
        run(small_config(**other), tmp_path)


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_refused(finished, tmp_path):
    """As the workdir, and as where the teacher comes from; nothing in it is changed."""
    earlier = tmp_path / "earlier"
    shutil.copytree(finished[0], earlier)
    about = json.loads((earlier / "teacher/stage.json").read_text())
    del about["format"]
    (earlier / "teacher/stage.json").write_text(json.dumps(about))
    before = sorted((path, path.stat().st_mtime) for path in earlier.rglob("*") if path.is_file())
    message = "earlier/teacher was trained by another version of sskd_jax, .* train it again in"
    with pytest.raises(UserError, match=message):
        run(small_config(), earlier)
    with pytest.raises(UserError, match=message):
        run(small_config(**{"teacher.checkpoint": str(earlier)}), tmp_path / "run")
    after = sorted((path, path.stat().st_mtime) for path in earlier.rglob("*") if path.is_file())
    assert before == after


@pytest.mark.slow
def test_epochs_may_be_compared_on_held_out_training_images(tmp_path):
    """The table is still measured on the test images, which are not as many."""
    config = small_config(**{"data.validation": 0.2, "student.images.share": 0.1})
    config.methods = ("scratch",)
    (row,) = run(config, tmp_path)
    scores = [line["validation/top1"] for line in rows(tmp_path)]
    assert scores[row["best_epoch"] - 1] == max(scores)
    assert not any(key.startswith("test/") for line in rows(tmp_path) for key in line)
    # 450 test images; a fifth of the others are held out.
    assert (row["top1"] * 450) % 1 == pytest.approx(0, abs=1e-3)
    held_out = plan.load(config, jax.devices()[:1]).held_out.size
    assert held_out == pytest.approx(0.2 * 1347, abs=5)
    assert (scores[0] * held_out) % 1 == pytest.approx(0, abs=1e-3)


MISTAKES = [
    (
        {"student.batch_size": 12},
        "8 devices do not divide student.batch_size=12: use --config.student.batch_size=16",
    ),
    ({"student.batch_size": 512}, "student.batch_size=512 is more than the 109 images of an epoch"),
    (
        {"student.model": "resnet57"},
        "unknown student architecture 'resnet57': did you mean 'resnet56'",
    ),
    ({"data.name": "cifar101"}, "unknown dataset 'cifar101': did you mean 'cifar10"),
    ({"teacher.checkpoint": "/nowhere"}, "/nowhere cannot be read: No such file"),
    ({"teacher.checkpoint": "."}, "holds no teacher: give a workdir"),
    ({"head.checkpoint": "/nowhere"}, "/nowhere is no workdir: the stage head comes from a run"),
    ({"student.checkpoint": "."}, "holds no student: give a workdir"),
    ({"settings.sskd.method.name": "ssdk"}, "unknown method 'ssdk': did you mean 'sskd'"),
    ({"dtype": "bf16"}, "unknown dtype 'bf16': did you mean 'bfloat16'"),
]


@pytest.mark.parametrize("changes,message", MISTAKES)
def test_mistakes_stop_the_run_before_it_trains(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train.run(small_config(**changes), str(tmp_path))
    assert not (tmp_path / "metrics.jsonl").exists() and not (tmp_path / "teacher").exists()


def test_a_run_that_can_not_be_planned_leaves_its_workdir_as_it_was(tmp_path):
    with pytest.raises(UserError, match="unknown stage to end with 'foo'"):
        train.run(small_config(until="foo"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "weights,message",
    [
        (dict(ce=1.0), "the config lacks weights.kd: give a number, 0 or more"),
        (
            dict(ce=1.0, kd=1.0, tf=1.0, ss=1.0, crd=1.0),
            "unknown config key 'weights.crd': .* choose from weights.ce, ",
        ),
    ],
)
def test_a_weight_too_few_or_too_many(weights, message, tmp_path):
    config = cifar.get_config()
    config.weights = weights
    with pytest.raises(UserError, match=message):
        train.run(config, str(tmp_path))


def test_an_unwritable_workdir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to --workdir"):
        run(small_config(), tmp_path / "file" / "run")
