import json

import jax
import pytest
from etils import epath
from matplotlib.figure import Figure

from sskd_jax.data import sources
from sskd_jax.system.console import in_short
from sskd_jax.types import UserError
from sskd_jax.views import Optics
from sskd_jax.workdir import report, seeds
from sskd_jax.workdir.files import write_rows
from sskd_jax.workdir.logbook import Logbook


def test_a_run_says_on_what_and_how_it_trains(capsys):
    optics = Optics(True, 1, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    report.announce(jax.devices(), sources.load("digits"), 1347, optics, [])
    _, data, views, *_ = capsys.readouterr().out.splitlines()
    assert data == "data     1347 training and 450 test images of 8x8 pixels, 10 classes"
    assert views == "views    flip True, pad 1, mean (0.4, 0.4, 0.4), std (0.2, 0.2, 0.2)"


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
    assert report.first_score(row) == name


def test_the_dot_is_at_the_last_of_equally_good_epochs():
    """The best checkpoint is of that epoch, too."""
    figure = Figure()
    above, below = figure.subplots(2)
    scores = {1: 0.5, 2: 0.9, 3: 0.9, 4: 0.7}
    epochs = {epoch: [{"test/top1": top1, "train/loss": 1.0}] for epoch, top1 in scores.items()}
    report.plot_stage(above, below, "student", epochs, None)
    _, dot = above.lines
    assert list(dot.get_xdata()) == [3] and list(dot.get_ydata()) == [90]


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
    words = "top-1 last 75.12 71.00 student, peer 75.33 231 minutes 1.5 paper, best none: rows"
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


def test_the_scores_of_long_tails_and_streams_have_a_table_of_their_own(tmp_path, capsys):
    book = Logbook(tmp_path, {"seed": 0}, jax.devices())
    tail = {"stage": "ldam/student", "network": "resnet8", "top1": 0.5, "few": 0.125, "ece": 0.25}
    report.finish(book, [tail, {"stage": "kd/student", "network": "resnet8", "top1": 0.5}])
    _, others = capsys.readouterr().out.split("Other scores")
    words = " ".join(others.split())
    assert "stage few ece" in words and "ldam/student 12.50 25.00" in words
    assert "kd/student" not in others and "task_il" not in others


def test_columns_that_nothing_is_in_are_left_out(tmp_path, capsys):
    book = Logbook(tmp_path, {"seed": 0}, jax.devices())
    report.finish(book, [{"stage": "student", "network": "vgg8", "top1": 0.5}])
    said = capsys.readouterr().out
    assert not {"paper", "epoch", "minutes"} & set(said.split()) and "50.00" in said


def finished_seed(workdir, seed: int, top1: float) -> None:
    """A run of one seed that is done, with its curve."""
    row = {"stage": "student", "network": "vgg8", "top1": top1, "best_top1": top1, "best_epoch": 1}
    with Logbook(epath.Path(workdir / f"seed-{seed}"), {"seed": seed}, jax.devices()) as book:
        book.write(
            {"stage": "student", "epoch": 1, "step": 3, "test/top1": top1, "train/loss": 1.0}
        )
        report.finish(book, [row])


def drawn(folder, losses: dict[str, float], monkeypatch):
    """The axes below of curves.png, of methods with these losses in both of two epochs."""
    import matplotlib.pyplot as plt

    rows = [
        {"stage": f"{name}/student", "epoch": n, "step": n, "train/loss": loss, "test/top1": 0.5}
        for name, loss in losses.items()
        for n in (1, 2)
    ]
    write_rows(folder / "metrics.jsonl", rows)
    papers = [{"stage": f"{name}/student", "paper": 70.0} for name in losses]
    (folder / "results.json").write_text(json.dumps(papers[:1]))
    monkeypatch.setattr(plt, "close", lambda figure: None)
    report.plot_curves(folder, [folder])
    above, below = plt.gcf().axes
    monkeypatch.undo()
    plt.close()
    assert [text.get_text() for text in above.get_legend().texts] == [
        f"{next(iter(losses))}/student, paper, best"
    ]
    return below


def test_losses_below_0_are_drawn_too(tmp_path, monkeypatch):
    folder = epath.Path(tmp_path)
    assert drawn(folder, {"kd": 1.0, "vid": 0.5}, monkeypatch).get_yscale() == "log"
    assert drawn(folder, {"kd": 1.0, "vid": -0.5}, monkeypatch).get_yscale() == "linear"


def test_many_methods_are_told_apart_and_their_names_hide_no_curve(tmp_path, monkeypatch):
    below = drawn(epath.Path(tmp_path), {f"m{i}": 1.0 + i for i in range(12)}, monkeypatch)
    looks = {(line.get_color(), line.get_linestyle()) for line in below.lines}
    assert len(looks) == 12
    (left, top), (right, _) = below.get_legend().get_bbox_to_anchor().get_points()
    assert top < below.bbox.y0


def test_several_seeds_are_taken_together(tmp_path, capsys):
    for seed, top1 in enumerate((0.5, 0.75, 0.25)):
        finished_seed(tmp_path, seed, top1)
    (tmp_path / "seed-3").mkdir()  # not done yet
    capsys.readouterr()
    report.show(epath.Path(tmp_path))
    said = capsys.readouterr().out
    assert "standard deviation of 3 seeds" in said and "50.00 ± 25.00" in said
    assert all(len(line) <= 80 for line in said.splitlines()[:6])
    assert "epoch" not in said  # that of the best one differs by seed
    assert "(n = " not in said
    results = tmp_path / "seed-1" / "results.json"
    further = {"stage": "sskd/student", "network": "vgg8", "top1": 0.5}
    results.write_text(json.dumps([*json.loads(results.read_text()), further]))
    report.show(epath.Path(tmp_path))
    assert "sskd/student (n = 1)" in capsys.readouterr().out
    assert (tmp_path / "curves.png").exists()
    with pytest.raises(UserError, match="several seeds: give one of them, such as .*seed-0"):
        seeds.check_one(epath.Path(tmp_path))


def test_one_run_and_several_seeds_do_not_share_a_workdir(tmp_path):
    several, single = epath.Path(tmp_path / "several"), epath.Path(tmp_path / "single")
    finished_seed(several, 7, 0.5)
    with pytest.raises(UserError, match="several seeds: give --workdir=.*seed-7"):
        seeds.check_free(several, several=False)
    with Logbook(single, {"seed": 5}, jax.devices()):
        pass
    with pytest.raises(UserError, match="give --config.seeds=1 .*, or move it to NEW/seed-5 and"):
        seeds.check_free(single, several=True)
    for inner in ("kd", "kd/student"):
        with pytest.raises(
            UserError, match="lies in .*, which is a run itself: give another place"
        ):
            seeds.check_free(single / inner, several=False)
    with pytest.raises(UserError, match="holds another run, .*/single: give another place"):
        seeds.check_free(epath.Path(tmp_path), several=False)
    (tmp_path / "project" / "kd").mkdir(parents=True)
    for folder in ("project", "project/kd"):  # a file of that name that is not of a run
        (tmp_path / folder / "config.json").write_text("{}")
    seeds.check_free(epath.Path(tmp_path / "project"), several=False)
    seeds.check_free(epath.Path(tmp_path / "project" / "mine"), several=False)


def test_an_epochs_line_is_short():
    figures = {f"train/{name}": 10.5 for name in ("ce", "kd", "tf", "ss", "loss", "accuracy")}
    figures |= {f"test/{name}": 0.5 for name in ("top1", "top5", "loss", "contrastive")}
    expected = "train/loss 10.500  test/top1 50.00 %  test/contrastive 50.00 %"
    assert in_short(figures) == expected


def test_a_row_that_lacks_a_key_is_told_with_its_file(tmp_path):
    rows = [{"stage": "student", "netwnrk": "vgg8", "parameters": 1234, "top1": 0.7512}]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match="results.json is damaged .it lacks 'network'"):
        report.show(tmp_path)
