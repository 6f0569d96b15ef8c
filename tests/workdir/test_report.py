import json

import jax
import pytest

from sskd_jax.system.console import in_short
from sskd_jax.workdir import report
from sskd_jax.workdir.logbook import Logbook


@pytest.mark.parametrize(
    "row,name",
    [
        (
            {"train/contrastive": 0.5, "test/top1": 0.7, "test/loss": 1.0, "test/contrastive": 0.2},
            "test/top1",
        ),
        ({"train/contrastive": 0.5, "test/contrastive": 0.2}, "test/contrastive"),
        (
            {"train/accuracy": 0.5, "validation/top1": 0.2, "validation/top5": 0.9},
            "validation/top1",
        ),
        ({"train/accuracy": 0.5, "train/loss": 0.2}, None),
    ],
)
def test_a_stage_is_drawn_by_its_first_score_of_held_out_images(row, name):
    assert report.headline(row) == name


def test_results_name_last_best_and_paper(tmp_path, capsys):
    book = Logbook(tmp_path, {"seed": 0}, jax.devices())
    rows = [
        {
            "stage": "student",
            "network": "vgg8",
            "parameters": 1234,
            "top1": 0.7512,
            "top5": 0.9,
            "best_top1": 0.7533,
            "best_epoch": 231,
            "paper": 75.33,
        },
        {"stage": "student", "net": "peer", "network": "vgg11", "parameters": 2345, "top1": 0.71},
    ]
    book.write_rows("times.jsonl", [{"stage": "student", "step": 9, "seconds": 90.0}])
    report.finish(book, rows)
    said = capsys.readouterr().out
    assert all(len(line) <= 80 for line in said.splitlines()[:6])
    words = (
        "top-1 last 75.12 71.00 student, peer 75.33 231 minutes 1.5 paper, best nothing was trained"
    )
    assert set(words.split()) <= set(said.split())
    assert (tmp_path / "results.json").exists()


def test_results_of_methods_that_a_start_left_out_stay(tmp_path, capsys):
    book = Logbook(tmp_path, {"seed": 0}, jax.devices())

    def row(stage: str, top1: float) -> dict[str, object]:
        return {"stage": stage, "network": "resnet8", "parameters": 9, "top1": top1}

    report.finish(book, [row("kd/student", 0.5), row("sskd/student", 0.625)])
    report.finish(book, [row("kd/student", 0.75)])
    assert "62.50" in capsys.readouterr().out.split("Accuracy")[2]
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored == [row("kd/student", 0.75), row("sskd/student", 0.625)]


def test_columns_that_nothing_is_in_are_left_out(tmp_path, capsys):
    book = Logbook(tmp_path, {"seed": 0}, jax.devices())
    report.finish(book, [{"stage": "student", "network": "vgg8", "top1": 0.5}])
    said = capsys.readouterr().out
    assert "paper" not in said and "epoch" not in said and "50.00" in said


def test_an_epochs_line_is_short():
    figures = {f"train/{name}": 10.5 for name in ("ce", "kd", "tf", "ss", "loss", "accuracy")}
    figures |= {f"test/{name}": 0.5 for name in ("top1", "top5", "loss", "contrastive")}
    expected = "train/loss 10.500  test/top1 50.00 %  test/contrastive 50.00 %"
    assert in_short(figures) == expected
