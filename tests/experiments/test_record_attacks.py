"""Records are never lost to another run of the same name, nor the index to a broken folder."""

import json
import shutil
from pathlib import Path

import pytest

from experiments import record, records
from tests.experiments.finished import finished

FILES = ("environments.json", "protocol.json", "results.json", "times.jsonl")


def refused(capsys, workdirs, results) -> str:
    """The line that the command ends with."""
    with pytest.raises(SystemExit) as end:
        record.main([*map(str, workdirs), f"--results={results}"])
    complaint = capsys.readouterr().err
    assert end.value.code == 2 and complaint.count("\n") == 1
    return complaint


@pytest.fixture
def twins(tmp_path) -> list[Path]:
    """The workdirs of two runs, both called `run`."""
    return [finished(tmp_path / name / "run", seed) for seed, name in enumerate("ab")]


def test_two_runs_of_one_name_are_refused_before_either_is_kept(twins, tmp_path, capsys):
    assert "rename one of them" in refused(capsys, twins, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_the_record_of_another_run_stays(twins, tmp_path, capsys):
    results = tmp_path / "results"
    record.keep_runs(twins[:1], results)
    before = (results / "run" / "config.json").read_bytes()
    assert "is there already, from another run" in refused(capsys, twins[1:], results)
    assert (results / "run" / "config.json").read_bytes() == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "times.jsonl", "results.json"])
def test_a_run_that_lost_a_row_does_not_replace_its_record(tmp_path, capsys, name):
    workdir, results = tmp_path / "run", tmp_path / "results"
    record.keep_runs([finished(workdir)], results)
    if name.endswith("l"):
        _, *others = (workdir / name).read_text().splitlines(keepends=True)
        (workdir / name).write_text("".join(others))
    else:
        _, *others = json.loads((workdir / name).read_text())
        (workdir / name).write_text(json.dumps(others))
    assert "is there already" in refused(capsys, [workdir], results)


def test_a_run_is_recorded_again_and_once_it_went_on(tmp_path):
    workdir, results = tmp_path / "run", tmp_path / "results"
    record.keep_runs([finished(workdir), workdir], results)
    row = {"stage": "kd/student", "step": 12, "seconds": 60.0, "environment": 0}
    with (workdir / "times.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    record.keep_runs([workdir], results)
    assert json.loads((results / "run" / "times.jsonl").read_text().splitlines()[-1]) == row
    assert sorted(path.name for path in results.iterdir()) == ["index.csv", "run"]


@pytest.fixture(scope="module")
def whole_and_broken(tmp_path_factory):
    """Records of two runs."""
    folder = tmp_path_factory.mktemp("records")
    runs = [finished(folder / name, method="kd") for name in ("broken", "whole")]
    record.keep_runs(runs, folder / "results")
    return folder / "results"


def test_a_score_that_is_no_number_is_told_and_nothing_kept(tmp_path, capsys):
    workdir, results = tmp_path / "run", tmp_path / "results"
    finished(workdir)
    row = {"stage": "teacher", "epoch": 1, "step": 4, "test/top1": "high"}
    (workdir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    line = refused(capsys, [workdir], results)
    assert "metrics.jsonl is damaged (line 1 has 'high' as its test/top1)" in line
    assert not results.exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [None, "", "null\n", "{}\n", "[]\n", "[1]\n", '{"a": 1}\n'])
def test_a_broken_folder_spoils_no_index(whole_and_broken, tmp_path, capsys, name, content):
    results = tmp_path / "results"
    shutil.copytree(whole_and_broken, results)
    (results / "broken" / name).unlink()
    if content is not None:
        (results / "broken" / name).write_text(content)
    runs = {network.run for network in records.recorded(results)}
    assert "whole" in runs
    if "broken" not in runs:
        assert "left out" in capsys.readouterr().out
