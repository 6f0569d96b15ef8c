"""Teacher and student compared: measures by hand, and the networks of a workdir."""

import jax
import numpy as np
import pytest
from tiny import planned, small_config, tiny_network

from experiments import protocol, record, records, similarity
from sskd_jax.engine.loop import first_state
from sskd_jax.losses import row_divergence
from sskd_jax.methods.sskd import ProjectionHead
from sskd_jax.system.paths import locate
from sskd_jax.types import UserError
from sskd_jax.workdir.checkpoint import Checkpoints
from sskd_jax.workdir.files import read_json, write_json
from sskd_jax.workdir.stages import describe
from tests.experiments.finished import finished

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(200, 8))


def test_cka_does_not_see_turns_and_scales_but_other_features():
    turn, _ = np.linalg.qr(RANDOM.normal(size=(8, 8)))
    assert similarity.linear_cka(FEATURES, FEATURES) == pytest.approx(1.0)
    assert similarity.linear_cka(FEATURES, 3 * FEATURES @ turn + 5) == pytest.approx(1.0)
    other = RANDOM.normal(size=(200, 16))
    assert similarity.linear_cka(FEATURES, other) < 0.2
    # By its definition: the inner product of the centred Gram matrices, normalised.
    centre = np.eye(200) - 1 / 200
    grams = [centre @ one @ one.T @ centre for one in (FEATURES, other)]
    norms = np.prod([np.linalg.norm(gram) for gram in grams])
    expected = (grams[0] * grams[1]).sum() / norms
    assert similarity.linear_cka(FEATURES, other) == pytest.approx(expected)


def test_divergence_and_agreement():
    teacher = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], np.float32))
    student = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]], np.float32))
    expected = (0.5 * np.log(2) + 0.25 * np.log(0.5)) / 2
    assert row_divergence(student, teacher).mean() == pytest.approx(expected, rel=1e-5)
    assert row_divergence(teacher + 3, teacher).mean() == pytest.approx(0, abs=1e-6)
    assert similarity.agreement(student, teacher) == 0.5


def test_rows_that_are_kept_are_those_of_sskd():
    """With a ratio of 0, those in which the teacher is right; all of them with 1."""
    embed = RANDOM.normal(size=(4 * 6, 16)).astype(np.float32)
    head = ProjectionHead().init(jax.random.key(0), embed)
    found = similarity.rotations(embed, embed, (head, head), 0.0)
    assert found["student"] == found["teacher"] and np.shape(found["teacher"]) == (18, 6)
    right = np.argmax(found["teacher"], 1) == np.arange(18) // 3
    assert 0 < right.sum() < 18
    np.testing.assert_array_equal(found["kept"], right)
    assert all(similarity.rotations(embed, embed, (head, head), 1.0)["kept"])


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A workdir of two methods, one with a teacher of its own, that have trained for no step."""
    workdir = tmp_path_factory.mktemp("untrained")
    with tiny_network():
        config = small_config()
        config.methods = ("kd", "hsakd_joint")
        for job in planned(config):
            folder = locate(workdir / job.name)
            describe(folder, job.about | {"steps": 0})
            with Checkpoints(folder) as checkpoints:
                checkpoints.save(jax.device_get(first_state(job)), 0.0)
        write_json(workdir / "config.json", protocol.as_json(config))
        yield workdir


def test_the_students_are_compared_with_the_teachers_of_their_methods(
    untrained, capsys, monkeypatch
):
    monkeypatch.setattr(similarity, "CLASSES", 3)
    monkeypatch.setattr(similarity, "PER_CLASS", 8)
    similarity.main([str(untrained)])
    found = read_json(untrained / records.SIMILARITY)
    pairs = {"teacher": "kd/student", "hsakd_joint/teacher": "hsakd_joint/student"}
    assert set(found) == {*pairs, *pairs.values()}
    assert "similarity.json" in capsys.readouterr().out
    count = similarity.CLASSES * similarity.PER_CLASS
    assert [len(one["tsne"]["place"]) for one in found.values()] == [count] * 4
    for student in pairs.values():
        measures = found[student]
        assert measures["kl"] > 0 and 0 < measures["cka"] < 1 and 0 <= measures["agreement"] <= 1


def test_a_run_without_a_teacher_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no run: give the workdir of one that distilled"):
        similarity.compare(locate(tmp_path))
    config = protocol.as_json(protocol.load("configs/long_tail.py:method=ce", {}))
    write_json(locate(tmp_path / "config.json"), config)
    with pytest.raises(UserError, match="has no teacher: give the workdir of a run that distilled"):
        similarity.compare(locate(tmp_path))


def test_a_teacher_may_be_in_another_workdir(untrained):
    config = read_json(untrained / "config.json")
    ours = similarity.stage_variables(locate(untrained), config, "teacher")
    config["teacher"]["checkpoint"] = str(untrained)
    elsewhere = similarity.stage_variables(locate("nowhere"), config, "teacher")
    jax.tree.map(np.testing.assert_array_equal, ours, elsewhere)


def test_the_record_keeps_it(tmp_path):
    workdir = finished(tmp_path / "run", method="kd")
    write_json(workdir / records.SIMILARITY, {"student": {"kl": 0.5, "cka": 0.9}})
    record.keep_runs([workdir], tmp_path / "results")
    networks = records.recorded(tmp_path / "results")
    assert [network.similarity for network in networks] == [{}, {"kl": 0.5, "cka": 0.9}]
