import json

import pytest

from experiments import record

ENVIRONMENTS = [
    {
        "platform": "cpu",
        "processor": "Abacus",
        "cores": 2,
        "devices": ["cpu"],
        "versions": {"jax": "0.9"},
    },
    {"platform": "gpu", "devices": ["NVIDIA H100"] * 4, "versions": {"jax": "0.10"}},
]
STAGES = ("teacher", "at+kd/student", "sskd/head", "sskd/student")


def finished(folder, seed: int = 0, top1: float = 0.75, **changes) -> str:
    """A workdir as a run leaves it.

    Every stage took a minute and a half on the second environment, in two parts.
    """
    folder.mkdir()
    config = {
        "seed": seed,
        "teacher": {"model": "vgg13", "epochs": 3, "checkpoint": ""},
        "student": {"model": "vgg8", "epochs": 3},
        "data": {"name": "cifar100", "data_dir": folder.name},
        "settings": {"at+kd": {"weights": {"at": 1.0}}, "sskd": {"weights": {"ss": 10.0}}},
    } | changes
    last = {"parameters": 9, "top1": top1, "top5": 0.9, "loss": 1.5}
    scores = last | {"best_top1": 0.8, "best_epoch": 2, "paper": 75.33}
    results = [
        {"stage": "teacher", "network": "vgg13", **scores},
        {"stage": "at+kd/student", "network": "vgg8", "method": "at", **scores},
        {
            "stage": "sskd/student",
            "network": "vgg8",
            "method": "sskd",
            "contrastive": 0.4,
            **scores,
        },
    ]
    metrics = [
        {"stage": stage, "epoch": epoch, "step": 4 * epoch, "test/top1": 0.2 * epoch}
        for stage in STAGES
        for epoch in (1, 2, 3)
    ]
    times = [
        {"stage": stage, "step": step, "seconds": seconds, "environment": 1}
        for stage in STAGES
        for step, seconds in ((6, 60.0), (12, 30.0))
    ]
    contents = {"config": config, "environments": ENVIRONMENTS, "results": results}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    write_rows(folder / "metrics.jsonl", metrics)
    write_rows(folder / "times.jsonl", times)
    return str(folder)


def write_rows(path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def table(results) -> list[list[str]]:
    """The cells of the page, without the names of the columns."""
    lines = (results / "README.md").read_text().splitlines()
    _, _, *rows = (line.split("|")[1:-1] for line in lines if line.startswith("|"))
    return [[cell.strip() for cell in row] for row in rows]


def test_every_network_has_a_row_with_its_time_and_device(tmp_path):
    record.main([finished(tmp_path / "one")], tmp_path / "results")
    teacher, beside, sskd = table(tmp_path / "results")
    assert teacher == [
        "cifar100",
        "vgg13",
        "labels",
        "3",
        "75.00",
        "80.00 (2)",
        "75.33",
        "1.5",
        "0",
        "4 x NVIDIA H100",
        "0.10",
        "[one](one/metrics.jsonl)",
    ]
    assert beside[1:3] == ["vgg13 -> vgg8", "at+kd"] and beside[7] == "1.5"
    assert sskd[1:3] == ["vgg13 -> vgg8", "sskd"] and sskd[7] == "1.5 + 1.5"
    assert (tmp_path / "results" / "one" / "accuracy.png").stat().st_size > 1000


def test_seeds_share_a_row_and_other_weights_do_not(tmp_path):
    other = {"at+kd": {"weights": {"at": 1.0}}, "sskd": {"weights": {"ss": 9.0}}}
    runs = [finished(tmp_path / "a", 0, 0.75), finished(tmp_path / "b", 1, 0.77)]
    record.main([*runs, finished(tmp_path / "c", 0, 0.7, settings=other)], tmp_path / "results")
    rows = table(tmp_path / "results")
    assert [(row[2], row[4], row[8]) for row in rows] == [
        ("labels", "74.00 ± 3.61", "0, 1, 0"),
        ("at+kd", "74.00 ± 3.61", "0, 1, 0"),
        ("sskd", "76.00 ± 1.41", "0, 1"),
        ("sskd", "70.00", "0"),
    ]


def test_a_method_alone_is_named_as_it_is_typed(tmp_path):
    settings = {"method": {"name": "at"}, "weights": {"ce": 1.0, "kd": 1.0, "at": 1000.0}}
    folder = tmp_path / "alone"
    finished(folder, settings={}, **settings)
    rows = [
        {"stage": "teacher", "network": "vgg13", "top1": 0.7},
        {"stage": "student", "network": "vgg8", "top1": 0.7, "method": "at"},
    ]
    (folder / "results.json").write_text(json.dumps(rows))
    record.main([str(folder)], tmp_path / "results")
    assert [row[2] for row in table(tmp_path / "results")] == ["labels", "at+kd"]


def test_every_device_of_a_stage_is_named(tmp_path):
    folder = tmp_path / "moved"
    finished(folder)
    rows = [
        {"stage": "teacher", "step": 6 + place, "seconds": 60.0, "environment": place}
        for place in (0, 1)
    ]
    write_rows(folder / "times.jsonl", rows)
    record.main([str(folder)], tmp_path / "results")
    teacher, student, _ = table(tmp_path / "results")
    assert teacher[7] == "2.0"
    assert teacher[9:11] == ["2 cores of Abacus, 4 x NVIDIA H100", "0.9, 0.10"]
    assert student[7] == "" and student[9] == "4 x NVIDIA H100"


def test_the_page_is_that_of_the_runs_that_are_kept():
    assert (record.RESULTS / "README.md").read_text() == record.page(record.RESULTS)


def test_a_run_that_is_not_finished_is_refused(tmp_path, capsys):
    folder = tmp_path / "half"
    finished(folder)
    (folder / "results.json").unlink()
    with pytest.raises(SystemExit) as end:
        record.main([str(folder)], tmp_path / "results")
    text = "has no results.json: give the workdir of a run that came to its end"
    assert end.value.code == 2 and text in capsys.readouterr().err
