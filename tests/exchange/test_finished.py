"""The networks of a workdir."""

import json

import pytest

from sskd_jax.exchange.finished import Network, environments, find_network, networks_in, result_row
from sskd_jax.system.paths import locate
from sskd_jax.types import UserError
from sskd_jax.workdir.files import write_rows


def test_networks_are_found_by_a_relative_path(tmp_path, monkeypatch):
    written = {
        "teacher": {"teacher_model": "resnet20"},
        "assistant": {"assistant_model": "resnet8", "teacher_model": "resnet20"},
        "branches": {"branches_model": "resnet20.branches", "teacher_model": "resnet20"},
        "kd/student": {"student_model": "my.code:Net"},
        "sskd/head": {"teacher_model": "resnet20"},
    }
    for stage, about in written.items():
        (tmp_path / "run" / stage).mkdir(parents=True)
        (tmp_path / "run" / stage / "stage.json").write_text(json.dumps({"format": 2} | about))
    monkeypatch.chdir(tmp_path)
    assert list(networks_in(locate("run"))) == ["assistant", "kd/student", "teacher"]


def test_a_network_that_was_made_of_a_student_is_one_to_choose_from(tmp_path):
    for kind in ("teacher", "student", "classifier"):
        about = {"format": 2, f"{kind}_model": "resnet8", "made": ["classifier"]}
        (tmp_path / "crt" / kind).mkdir(parents=True)
        (tmp_path / "crt" / kind / "stage.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="choose one with --stage=crt/classifier.crt/student$"):
        find_network(locate(tmp_path), None)
    with pytest.raises(UserError, match="unknown stage ''"):  # --stage=$STAGE, which is not set
        find_network(locate(tmp_path), "")
    assert find_network(locate(tmp_path), "crt/classifier").net == "classifier"


def test_the_environment_to_which_a_run_came_back_is_the_newest(tmp_path):
    known = [{"python": "3.11"}, {"python": "3.12"}, {"python": "3.13"}]
    (tmp_path / "environments.json").write_text(json.dumps(known))
    rows = [{"stage": "student", "step": step, "environment": step % 2} for step in (2, 3, 4)]
    write_rows(tmp_path / "times.jsonl", [*rows, {"stage": "teacher", "step": 1, "environment": 2}])
    assert environments(locate(tmp_path), "student") == [known[1], known[0]]


def test_a_network_that_learned_beside_that_of_the_stage(tmp_path):
    written = {
        "ours/student": {"normalisation": {"student": {}, "peer": {}, "teacher": {}}},
        "ours/teacher": {"normalisation": {"teacher": {}}},
        "ours/head": {"normalisation": {"other": {}}},
    }
    for stage, about in written.items():
        (tmp_path / stage).mkdir(parents=True)
        about |= {"format": 2, "student_model": "resnet8", "teacher_model": "resnet20"}
        (tmp_path / stage / "stage.json").write_text(json.dumps(about))
    rows = [{"stage": "ours/student"}, {"stage": "ours/student", "net": "peer"}]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    workdir, peer = locate(tmp_path), Network("ours/student", "peer")
    assert networks_in(workdir) == {
        "ours/peer": peer,
        "ours/student": Network("ours/student", "student"),
        "ours/teacher": Network("ours/teacher", "teacher"),
    }
    assert find_network(workdir, None).name == "ours/student"
    assert find_network(workdir, "ours/peer") == peer
    assert result_row(workdir, peer) == rows[1]
    assert result_row(workdir, find_network(workdir, None)) == rows[0]
