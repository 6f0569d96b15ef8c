"""Scores beside top-1 accuracy, in the columns of a table."""

import json

from experiments import tables
from experiments.plans import Cell
from experiments.records import Network
from experiments.tables import Filled


def network(run: str, **result: float) -> Network:
    return Network(run, "er/student", 0, "done", "", {}, result, [], [])


def test_means_over_the_seeds_of_those_that_have_the_score(tmp_path):
    two = [network("a", many=0.5), network("b", many=0.7)]
    other = [network("c", many=0.25, few=0.125, parameters=9)]
    runs = {"ce": two, "ssd_lt": other, "ldam": []}
    filled = [Filled(Cell("tail", name, ""), networks) for name, networks in runs.items()]
    grid = tables.score_grid(("many", "few"), filled, tmp_path)
    assert list(grid.columns) == ["row", "method", "many", "few"]
    texts = [[field.text for field in line] for line in grid.rows]
    assert texts == [
        ["tail", "ce", "60.00 ± 14.14 (2)", ""],
        ["tail", "ssd_lt", "25.00 (1)", "12.50 (1)"],
    ]
    assert tables.score_grid((), filled, tmp_path) is None
    assert tables.score_grid(("many",), filled[2:], tmp_path) is None


def test_what_a_stream_forgot_is_read_from_its_record(tmp_path):
    numbers = {"task_classes": 5, "task_epochs": 1}
    config = {"methods": ["er"], "settings": {"er": {"method": numbers}}, "student": {"epochs": 2}}
    names = [f"test/{score}_{task}" for score in ("class_il", "task_il") for task in (0, 1)]
    rows = [
        {"stage": "er/student", "epoch": epoch, "step": epoch, **dict.fromkeys(names, value)}
        for epoch, value in ((1, 0.75), (2, 0.5))
    ]
    (tmp_path / "a").mkdir()
    (tmp_path / "a/config.json").write_text(json.dumps(config))
    (tmp_path / "a/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = tables.measured(network("a", task_il=0.5), tmp_path)
    assert (found["task_il"], found["class_il forgetting"]) == (50, 25)
