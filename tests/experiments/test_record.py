"""What is kept of runs, and the index of all of them."""

import csv
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments import protocol, record, records
from sskd_jax.workdir.files import read_json
from tests.experiments.finished import finished, write_rows


def kept(results, *workdirs) -> list[dict]:
    """The lines of the index once these runs are kept."""
    record.keep_runs(workdirs, results)
    with open(results / records.INDEX) as file:
        return list(csv.DictReader(file))


def test_every_network_has_a_line_with_its_protocol_time_and_device(tmp_path):
    teacher, beside, sskd = kept(tmp_path / "results", finished(tmp_path / "one"))
    assert teacher["method"] == "labels" and teacher["network"] == "vgg13"
    assert sskd["run"] == "one" and sskd["stage"] == "sskd/student" and sskd["status"] == "done"
    assert [sskd[key] for key in ("data", "teacher", "network", "method", "changes")] == [
        "cifar100",
        "vgg13",
        "vgg8",
        "sskd",
        "",
    ]
    assert [sskd[key] for key in ("epochs", "batch_size", "views", "before", "selection")] == [
        "3",
        "64",
        "4",
        "teacher 3 epochs; head 60 epochs",
        "test images",
    ]
    assert [sskd[key] for key in ("last", "best", "held_out", "best_epoch")] == [
        "0.75",
        "0.76",
        "",
        "2",
    ]
    assert [sskd[key] for key in ("minutes_before", "minutes")] == ["1.5", "1.5"]
    assert beside["minutes_before"] == "0" and beside["views"] == "1"
    assert sskd["device"] == "4 x NVIDIA H100" and sskd["jax"] == "0.10"


def test_every_seed_of_a_workdir_is_a_run_of_its_own(tmp_path):
    for seed in (0, 1):
        finished(tmp_path / "both" / f"seed-{seed}", seed, method="kd")
    lines = kept(tmp_path / "results", tmp_path / "both")
    assert [(line["run"], line["seed"]) for line in lines[::2]] == [
        ("both-0", "0"),
        ("both-1", "1"),
    ]


def test_the_best_epoch_on_held_out_images_is_another_column(tmp_path):
    run = finished(tmp_path / "one", method="kd", data__validation=0.1)
    *_, line = kept(tmp_path / "results", run)
    assert line["selection"] == "0.1 of the training images"
    assert (line["best"], line["held_out"]) == ("", "0.76")


def test_seeds_share_an_experiment_and_other_weights_do_not(tmp_path):
    runs = [finished(tmp_path / name, seed) for seed, name in enumerate("ab")]
    runs.append(finished(tmp_path / "c", settings__sskd__weights__ss=9.0))
    lines = kept(tmp_path / "results", *runs)
    found = {(line["run"], line["stage"]): line["experiment"] for line in lines}
    for stage in ("teacher", "at+kd/student"):
        assert len({found[run, stage] for run in "abc"}) == 1
    assert found["a", "sskd/student"] == found["b", "sskd/student"] != found["c", "sskd/student"]
    assert [line["changes"] for line in lines if line["run"] == "c"] == ["", "", "ss 9.0"]
    assert len(set(found.values())) == 4


def test_a_method_alone_is_named_as_it_is_typed(tmp_path):
    lines = kept(tmp_path / "results", finished(tmp_path / "alone", method="at+kd"))
    assert [line["method"] for line in lines] == ["labels", "at+kd"]


def test_a_teacher_of_another_run_is_not_counted_again(tmp_path):
    shared = finished(tmp_path / "shared", method="kd", teacher__checkpoint="runs/teacher")
    given = finished(tmp_path / "given", method="kd", teacher__checkpoint="/data/vgg13.pth")
    lines = kept(tmp_path / "results", shared, given)
    assert [(line["run"], line["stage"]) for line in lines] == [
        ("given", "teacher"),
        ("given", "student"),
        ("shared", "student"),
    ]
    assert lines[0]["epochs"] == "given" and lines[1]["before"] == "teacher vgg13.pth"
    assert lines[2]["before"] == "teacher 3 epochs"


def test_every_device_of_a_stage_is_named(tmp_path):
    folder = finished(tmp_path / "moved")
    rows = [
        {"stage": "teacher", "step": 6 + place, "seconds": 60.0, "environment": place}
        for place in (0, 1)
    ]
    write_rows(folder / "times.jsonl", rows)
    teacher, student, _ = kept(tmp_path / "results", folder)
    assert teacher["minutes"] == "2.0"
    assert (teacher["device"], teacher["jax"]) == (
        "2 cores of Abacus, 4 x NVIDIA H100",
        "0.9, 0.10",
    )
    assert student["minutes"] == "" and student["device"] == "4 x NVIDIA H100"


def test_folders_of_this_machine_are_not_kept(tmp_path):
    run = finished(tmp_path / "one", teacher__checkpoint="/data/my weights/vgg13.pth")
    kept(tmp_path / "results", run)
    folder = tmp_path / "results" / "one"
    config = read_json(folder / "config.json")
    assert config["teacher"]["checkpoint"] == "vgg13.pth"
    command = read_json(folder / "environments.json")[0]["command"]
    assert command == ["-m", "sskd_jax.main", "--config.data.data_dir=mine"]
    rows = read_json(run / "results.json")
    started = [row | {"start_from": "/data/runs/before"} for row in rows]
    (run / "results.json").write_text(json.dumps(started))
    shutil.rmtree(folder)
    kept(tmp_path / "results", run)
    assert read_json(folder / "results.json")[0]["start_from"] == "before"
    again = [row | {"top1": row["top1"] + 1e-6} for row in started]  # measured by another device
    (run / "results.json").write_text(json.dumps(again))
    kept(tmp_path / "results", run)  # again


def test_only_folders_leave_a_command(tmp_path):
    file = tmp_path / "environments.json"
    command = ["--config=/a b/configs/extend.py:run=/c d/runs/sskd,epochs=60", "x=/e f/g.pth"]
    file.write_text(json.dumps(command))
    assert json.loads(record.content_of(file)) == [
        "--config=extend.py:run=sskd,epochs=60",
        "x=g.pth",
    ]


def test_only_folders_leave_a_sentence():
    told = "3 / 4 of /data/a.pth, ~/runs/b.pth and gs://bucket/c.pth fit"
    assert record.without_folders(told) == "3 / 4 of a.pth, b.pth and gs://bucket/c.pth fit"


def test_a_failed_run_is_a_line_with_its_reason_until_it_is_done(tmp_path):
    results, workdir = tmp_path / "results", tmp_path / "run"
    config = protocol.as_json(protocol.load("configs/cifar.py:method=kd", {"seed": 3}))
    record.keep_failed(workdir, results / "run", config, "student", "it diverged")
    (network,) = records.recorded(results)
    assert (network.status, network.reason, network.seed) == ("failed", "it diverged", 3)
    line = records.index_row(network)
    assert line["method"] == "kd" and line["last"] is None and line["minutes"] is None
    assert "it diverged" in records.index(results)
    lines = kept(results, finished(workdir, method="kd"))
    assert [line["status"] for line in lines] == ["done", "done"]


def test_a_run_that_is_not_finished_is_refused(tmp_path, capsys):
    folder = finished(tmp_path / "half")
    (folder / "results.json").unlink()
    with pytest.raises(SystemExit) as end:
        record.main([str(folder)])
    text = "has no results.json: give the workdir of a run that came to its end"
    assert end.value.code == 2 and text in capsys.readouterr().err


def test_the_index_may_be_written_by_several_at_once(tmp_path):
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(record.write_index, [tmp_path] * 200))
    assert [path.name for path in tmp_path.iterdir()] == [records.INDEX]


def test_the_index_is_that_of_the_runs_that_are_kept():
    assert (records.RECORDS / records.INDEX).read_text() == records.index()


def test_the_protocols_are_those_of_the_configs_that_are_kept():
    """A record says what today's code would say of its config, so that cells find their runs."""
    for file in records.RECORDS.glob(f"*/{records.PROTOCOL}"):
        told, config = json.loads(file.read_text()), read_json(file.with_name("config.json"))
        for stage, found in told["networks"].items():
            today = protocol.describe(config, stage)
            # Versions of XLA count operations in ways of their own.
            assert today | {"teraflop": None} == found | {"teraflop": None}, file


def test_later_stages_take_no_part_in_what_an_earlier_network_took():
    times = [{"stage": f"crt/{kind}"} for kind in ("student", "student", "classifier")]
    assert records.trained_for(times, "crt/student") == ["crt/student"]
    assert records.trained_for(times, "crt/classifier") == ["crt/student", "crt/classifier"]
    assert records.trained_for(times, "kd/student") == []
