"""Whole runs of a tiny network on the digits: every stage and hand-over, restarts, and mistakes."""

import json
import pathlib

import jax
import numpy as np
import pytest
from quick import QUICK
from tiny import TinyNet

from configs import cifar, quickstart
from sskd_jax import train
from sskd_jax.engine.devices import RUN_OFTEN, run_once
from sskd_jax.engine.loop import stage_key
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS
from sskd_jax.types import UserError
from sskd_jax.workdir.checkpoint import Checkpoints

STAGES = ("teacher", "scratch/student", "kd/student", "sskd/head", "sskd/student")


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", TinyNet)


def small_config(**changes):
    """The quickstart with the tiny network, two epochs per stage and three steps per epoch."""
    config = quickstart.get_config()
    for section in ("teacher", "head", "warmup", "paraphraser", "student"):
        config[section].update(epochs=2, batch_size=32, fraction=0.08, milestones=(1,))
    config.teacher.model = config.student.model = "tiny"
    config.update_from_flattened_dict(changes)
    return config


def run(config, workdir: pathlib.Path):
    return train.run(config, str(workdir), jax.devices()[:1])


def rows(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def final_state(workdir: pathlib.Path, stage: str):
    with Checkpoints(workdir / stage) as checkpoints:
        return checkpoints.newest()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", TinyNet)
        return workdir, run(small_config(), workdir)


@pytest.mark.slow
def test_every_stage_leaves_its_record(finished):
    workdir, table = finished
    assert [(row["stage"], row["epoch"]) for row in rows(workdir)] == [
        (name, n) for name in STAGES for n in (1, 2)
    ]
    assert [row["stage"] for row in table] == [
        "teacher",
        "scratch/student",
        "kd/student",
        "sskd/student",
    ]
    for file in ("config.json", "environments.json", "times.jsonl", "results.json", "curves.png"):
        assert (workdir / file).stat().st_size > 100, file
    assert list((workdir / "tensorboard").iterdir())
    last = {row["stage"]: row for row in rows(workdir)}
    for row in table:
        np.testing.assert_allclose(row["top1"], last[row["stage"]]["test/top1"], rtol=1e-6)
        assert row["best_top1"] >= row["top1"]
    assert 0 <= last["sskd/head"]["test/contrastive"] <= 1
    np.testing.assert_allclose(
        [row["learning_rate"] for row in rows(workdir)], [0.05, 0.005] * 5, rtol=1e-6
    )


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(finished, capsys):
    workdir, table = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    assert run(small_config(), workdir) == table
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert capsys.readouterr().out.count("done at step 6") == len(STAGES)


@pytest.mark.slow
def test_the_same_run_again_gives_the_same_bits(finished, tmp_path):
    workdir, table = finished
    config = small_config()
    config.methods = ("sskd",)
    assert run(config, tmp_path) == [table[0], table[-1]]
    assert rows(tmp_path) == [
        row for row in rows(workdir) if row["stage"] in ("teacher", "sskd/head", "sskd/student")
    ]
    for stage in ("teacher", "sskd/head", "sskd/student"):
        jax.tree.map(
            np.testing.assert_array_equal, final_state(tmp_path, stage), final_state(workdir, stage)
        )


@pytest.mark.slow
def test_a_restart_changes_no_bit(finished, tmp_path, monkeypatch):
    """Stops in the middle of the last stage's second epoch, behind a checkpoint within it, and goes on."""
    workdir, table = finished
    monkeypatch.setattr("sskd_jax.engine.loop.DISPATCH_SECONDS", 0.0)
    save = Checkpoints.save

    def save_and_stop(self, state, score=None):
        save(self, state, score)
        if int(state.step) == 4 and self.folder.parts[-2:] == ("sskd", "student"):
            self.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(small_config(save_seconds=0.0), tmp_path)
    monkeypatch.setattr(Checkpoints, "save", save)
    assert run(small_config(), tmp_path) == table
    assert rows(tmp_path) == rows(workdir)
    for stage in STAGES:
        jax.tree.map(
            np.testing.assert_array_equal, final_state(tmp_path, stage), final_state(workdir, stage)
        )


def others_config(finished, *methods: str, **changes):
    """An epoch of every stage on the teacher of another run."""
    epochs = {f"{stage}.epochs": 1 for stage in ("warmup", "paraphraser", "student")}
    config = small_config(**epochs, **{"teacher.checkpoint": str(finished[0])}, **changes)
    config.methods = methods
    return config


@pytest.fixture(scope="module")
def others(finished, tmp_path_factory):
    """All methods that `finished` does not have: (workdir, table)."""
    workdir, names = (
        tmp_path_factory.mktemp("others"),
        [name for name in METHODS if f"{name}/student" not in STAGES],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", TinyNet)
        patch.setitem(RUN_OFTEN, "cpu", RUN_OFTEN["cpu"] | QUICK)
        return workdir, run(others_config(finished, *names, "fitnet+kd"), workdir)


@pytest.mark.slow
def test_every_method_trains(others):
    workdir, table = others
    students = [row["stage"] for row in table[1:]]
    assert len(students) == len(METHODS) - 2 and students[-1] == "fitnet+kd/student"
    assert {row["stage"] for row in rows(workdir)} == {
        *students,
        "ab/warmup",
        "fsp/warmup",
        "ft/paraphraser",
    }
    for row in rows(workdir):
        losses = {name: value for name, value in row.items() if name.startswith("train/")}
        assert all(np.isfinite(value) for value in losses.values()) and len(losses) > 1
    assert len({row["train/loss"] for row in rows(workdir)}) == len(students) + 3


@pytest.mark.slow
def test_warmed_up_students_start_from_their_warm_up(others):
    warm, student = (
        final_state(others[0], f"fsp/{name}")["params"]["student"] for name in ("warmup", "student")
    )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), warm, student)
    assert 0 < moved["conv1"]["kernel"] < 0.2 * np.abs(warm["conv1"]["kernel"]).max()
    key, image = jax.random.split(stage_key(0, "warmup"))[0], np.zeros((2, 8, 8, 3), np.float32)
    start = run_once(TinyNet(num_classes=10).init, key, image)["params"]
    jax.tree.map(
        np.testing.assert_array_equal, warm["fc"], start["fc"]
    )  # no class is learned in a warm-up: no decay
    assert np.abs(warm["conv1"]["kernel"] - start["conv1"]["kernel"]).max() > 0


@pytest.mark.slow
def test_warm_ups_and_memories_survive_a_restart(finished, others, tmp_path, monkeypatch):
    monkeypatch.setattr("sskd_jax.engine.loop.DISPATCH_SECONDS", 0.0)
    monkeypatch.setitem(RUN_OFTEN, "cpu", RUN_OFTEN["cpu"] | QUICK)
    config, save = others_config(finished, "ab", "crd", save_seconds=0.0), Checkpoints.save
    for stage in (("ab", "warmup"), ("crd", "student")):

        def save_and_stop(self, state, score=None, stage=stage):
            save(self, state, score)
            if int(state.step) == 2 and self.folder.parts[-2:] == stage:
                self.wait()
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoints, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path)
    monkeypatch.setattr(Checkpoints, "save", save)
    run(config, tmp_path)
    for stage in ("ab/warmup", "ab/student", "crd/student"):
        jax.tree.map(
            np.testing.assert_array_equal,
            final_state(tmp_path, stage),
            final_state(others[0], stage),
        )


@pytest.mark.slow
def test_teacher_and_head_of_another_workdir(finished, tmp_path):
    workdir, _ = finished
    source = {"teacher.checkpoint": str(workdir), "head.checkpoint": str(workdir)}
    config = small_config(**source)
    config.methods = ("sskd",)
    table = run(config, tmp_path)
    jax.tree.map(
        np.testing.assert_array_equal,
        final_state(tmp_path, "sskd/student"),
        final_state(workdir, "sskd/student"),
    )
    assert table[-1]["top1"] == finished[1][-1]["top1"]
    assert not (tmp_path / "teacher").exists() and not (tmp_path / "sskd/head").exists()


@pytest.mark.slow
def test_another_config_or_teacher_is_refused(finished, tmp_path):
    workdir, _ = finished
    with pytest.raises(UserError, match="student.learning_rate was 0.05, is 0.1"):
        run(small_config(**{"student.learning_rate": 0.1}), workdir)
    with pytest.raises(UserError, match="was trained with model tiny, and this run has resnet8"):
        run(
            small_config(**{"teacher.checkpoint": str(workdir), "teacher.model": "resnet8"}),
            tmp_path,
        )


MISTAKES = [
    (
        {"student.batch_size": 12},
        "8 devices do not divide student.batch_size=12: use --config.student.batch_size=16",
    ),
    ({"student.batch_size": 512}, "student.batch_size=512 is more than the 109 training images"),
    (
        {"student.model": "resnet57"},
        "unknown student architecture 'resnet57': did you mean 'resnet56'",
    ),
    ({"data.name": "cifar101"}, "unknown dataset 'cifar101': did you mean 'cifar10"),
    ({"teacher.checkpoint": "/nowhere"}, "/nowhere cannot be read: No such file"),
    ({"teacher.checkpoint": "."}, "holds no teacher: give a workdir"),
    ({"settings.sskd.method.name": "ssdk"}, "unknown method 'ssdk': did you mean 'sskd'"),
]


@pytest.mark.parametrize("changes,message", MISTAKES)
def test_mistakes_stop_the_run_before_it_trains(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train.run(small_config(**changes), str(tmp_path))
    assert not (tmp_path / "metrics.jsonl").exists()


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


@pytest.mark.parametrize(
    ("name", "platform", "expected"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "gpu", "bfloat16"),
        ("auto", "tpu", "bfloat16"),
        ("float32", "gpu", "float32"),
        ("bfloat16", "cpu", "bfloat16"),
    ],
)
def test_networks_compute_in_bfloat16_where_there_is_hardware_for_it(name, platform, expected):
    assert np.dtype(train.compute_dtype(name, platform)) == expected


def test_an_unknown_dtype_is_told_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match="unknown dtype 'bf16'"):
        run(small_config(dtype="bf16"), tmp_path)
