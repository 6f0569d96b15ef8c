"""The pages are those of the records, and say what was run, what was not, and how sure it is."""

import re
import types
from html.parser import HTMLParser

import pytest

from experiments import page, plans, protocol, record, records, report, runs, tables
from experiments.page import Download, Field, Grid
from experiments.plans import Cell, Claim, Table
from tests.experiments.finished import finished

CONFIG = "configs/cifar.py:teacher=vgg13,student=vgg8,method="
SCHEDULE = {"student.epochs": 3, "teacher.epochs": 3}
PAIR = "vgg13 -> vgg8"
TOY = Table(
    "A toy <table>",
    "Three epochs.",
    tuple(
        Cell(PAIR, method, CONFIG + method, SCHEDULE, paper)
        for method, paper in (
            ("scratch", None),
            ("kd", 70.0),
            ("at+kd", None),
            ("dkd", None),
            ("sskd", 78.0),
        )
    )
    + (Cell(PAIR, "kd, longer", CONFIG + "kd", {**SCHEDULE, "student.epochs": 4}),),
    claims=(
        Claim("SSKD is above KD", "sskd", "kd"),
        Claim("AT is above KD", "at+kd", "kd"),
        Claim("SSKD is above longer KD", "sskd", "kd, longer"),
    ),
    scores=("top5", "few"),
)
SCORES = {
    "scratch": (0.60, 0.61, 0.62),
    "kd": (0.70, 0.71, 0.72),
    "sskd": (0.75, 0.76, 0.77),
    "at+kd": (0.9,),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Records of the methods, of one with a single seed, and of two runs that failed."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "TABLES", {"toy": TOY})
        workdirs = [
            finished(folder / f"{method}-{seed}", seed, top1, method=method)
            for method, scores in SCORES.items()
            for seed, top1 in enumerate(scores)
        ]
        workdirs += [
            finished(folder / f"longer-{seed}", seed, top1, method="kd", student__epochs=4)
            for seed, top1 in enumerate((0.80, 0.81, 0.82))
        ]
        record.keep_runs(workdirs, folder / "results")
        for method in ("at+kd", "dkd"):
            config = protocol.as_json(protocol.load(CONFIG + method, {**SCHEDULE, "seed": 1}))
            failed = folder / "results" / f"{method}-1"
            record.keep_failed(folder / "nowhere", failed, config, "student", "/my/it diverged")
        readme = folder / "README.md"
        readme.write_text("# Mine\n<!-- table toy -->\nold\n<!-- end -->\nend\n")
        contents = report.contents(folder / "results", readme)
        assert report.contents(folder / "results", readme) == contents  # again, and the same
    texts = {path.name if path != readme else "mine": text for path, text in contents.items()}
    return types.SimpleNamespace(**{name.replace(".", "_"): text for name, text in texts.items()})


def test_other_scores_have_a_table_of_their_own(toy):
    assert "| row | method | top5 | few |" in toy.README_md
    assert f"| {PAIR} | kd | 90.00 ± 0.00 (3) |  |" in toy.README_md


def test_a_sweep_is_told_apart(tmp_path):
    changes = ({}, {"student__momentum": 0.8}, {"student__learning_rate": 0.2}, {"seed": 1})
    workdirs = [
        finished(tmp_path / f"run-{number}", method="kd", **change)
        for number, change in enumerate(changes)
    ]
    record.keep_runs(workdirs, tmp_path / "results")
    text = report.contents(tmp_path / "results")[tmp_path / "results" / report.MARKDOWN]
    first, slow, fast = (
        line for line in text.splitlines() if " | vgg13 -> vgg8 | kd, student." in line
    )
    assert "kd, student.learning_rate 0.05, student.momentum 0.9 | 3 epochs" in first
    assert "student.learning_rate 0.05, student.momentum 0.8 |" in slow and "(2)" not in slow
    assert "student.learning_rate 0.2, student.momentum 0.9 |" in fast
    assert "75.00 ± 0.00 (2)" in first  # with two seeds
    assert "vgg13 | labels |" in text  # the teacher's line needs no more words


def test_the_verdict_comes_first_and_says_n(toy):
    first = " ".join(toy.README_md.split("\n\n")[1].split())
    assert first.startswith(
        "Of 3 claims, 1 seen here, 1 opposite seen, 0 not seen, 1 of one seed, 0 not run."
    )
    where = "In “A toy <table>”, SSKD is"
    assert f"{where} 5.00 ± 0.82 points above KD (seen here; n = 3 seeds, 1 pair of" in first
    assert f"{where} 5.00 ± 0.82 points below KD, longer (opposite seen; n = 3" in first
    assert first.endswith("26 trained networks recorded, 2 failed.")


def test_a_table_has_paper_last_best_and_n(toy):
    assert f"| {PAIR} | kd | 70.00 | 71.00 ± 1.00 | 72.00 ± 1.00 |  | 3 | 3 epochs x 1 view" in (
        toy.README_md
    )
    assert f"| {PAIR} | at+kd |  | 90.00 | 91.00 |  | 1 |" in toy.README_md
    assert "[0](kd-0/metrics.jsonl), [1](kd-1/metrics.jsonl)" in toy.README_md
    all_seeds = "61.00 ± 1.00 (3) | 71.00 ± 1.00 (3)"
    assert f"| {PAIR} | {all_seeds} | 90.00 (1); 1 failed | failed |" in toy.README_md
    assert "[0](at+kd-0/metrics.jsonl); 1 failed: it diverged |" in toy.README_md


def test_seeds_of_different_code_and_devices_are_told():
    place = {"platform": "gpu", "devices": ["H100"], "versions": {"jax": "0.10"}}
    other = place | {"devices": ["H200"], "own_code": {"my_code": 7}, "git_revision": "b"}
    one, two = (types.SimpleNamespace(environments=[place, *more]) for more in ((), (place, other)))
    found = ["2 devices", "2 revisions", "2 versions of own code"]
    assert tables.differing([one, two]) == found and tables.differing([one, one]) == []


def test_cells_are_shaded_by_standard_errors(toy):
    # The best epoch of KD is 2 points above the published one, 3.5 of its standard errors.
    found = re.search(r'<td class="s3" title="([^"]*)">71.00', toy.report_html)
    assert found[1] == "3.5 standard errors above the published number"
    assert re.search(r'<td class="sm1" title="1.7 [^"]* below[^"]*">76.00', toy.report_html)
    assert re.search(r'<td class="sm3" title="12.2 [^"]* below kd">61.00', toy.report_html)
    assert re.search(r'<td class="faint">90.00', toy.report_html)  # one seed


class Checker(HTMLParser):
    """Finds elements that are not closed, and addresses that lead away from the page."""

    EMPTY = {"meta", "circle", "polygon", "polyline", "path"}

    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for key, value in attrs if key in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def test_the_html_is_sound_and_needs_no_network(toy):
    checker = Checker()
    checker.feed(toy.report_html)
    assert not checker.open and toy.report_html.count("<svg") == 2  # curves, and cost
    assert not [one for one in checker.addresses if "//" in one and not one.startswith("data:")]
    assert "<script" not in toy.report_html and "A toy &lt;table&gt;" in toy.report_html
    assert "prefers-color-scheme: dark" in toy.report_html
    assert "launch toy --only &quot;vgg13 -&gt; vgg8&quot; &quot;sskd&quot;" in toy.report_html


def test_the_readme_has_the_table_and_no_single_seed(toy):
    assert toy.mine.startswith("# Mine\n<!-- table toy -->\n| networks |")
    assert toy.mine.endswith("\n<!-- end -->\nend\n") and "old" not in toy.mine
    assert f"| {PAIR} | sskd | 76.00 ± 1.00 (3) | 77.00 ± 1.00 (3) |" in toy.mine
    assert f"| {PAIR} | at+kd | not run |" in toy.mine


def test_what_was_done_goes_before_what_failed_and_a_seed_counts_once():
    def network(run: str, seed: int, status: str) -> records.Network:
        return records.Network(run, "", seed, status, "", {"experiment": "x"}, {}, [], [])

    networks = [network("c", 1, "failed"), network("a", 0, "done"), network("b", 0, "failed")]
    found = records.by_experiment(networks)["x"]
    assert [(seed, one.run) for seed, one in found.items()] == [(0, "a"), (1, "c")]


def test_marks_of_text():
    assert page.marked("a < b `x` [log](run/log.txt)") == (
        'a &lt; b <code>x</code> <a href="run/log.txt">log</a>'
    )
    grid = Grid(("a", "b"), [[Field("1"), Field("2")]])
    assert page.markdown_table(grid) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    told = Grid(("a",), [[Field("no <class> has int | str")]])
    assert page.markdown_table(told).endswith("\n| no \\<class> has int \\| str |")
    assert "utf-8,%C3%BC,1%0A" in page.element(Download("a.csv", "ü,1\n"))


def test_a_command_fills_its_cell_alone():
    for name in ("few", "similar"):
        cells = plans.TABLES[name].cells
        for cell in cells:
            assert runs.chosen(cells, [cell.row, cell.column]) == [cell]


def test_the_pages_are_those_of_the_records():
    """`python -m experiments.report` writes them."""
    for path, content in report.contents(records.RECORDS, report.README).items():
        assert path.read_text(encoding="utf-8") == content, path


def test_similar_students_have_a_line_per_experiment():
    def network(seed: int, kl: float) -> records.Network:
        told = {"experiment": "x", "data": "digits", "network": "vgg8", "method": "kd"}
        found = {"kl": kl, "cka": 0.5 + seed / 10, "agreement": 0.25}
        found["tsne"] = {"place": [[0.0, 1.0], [2.0, 3.0]], "label": [0, 1]}
        found["rotations"] = {"teacher": [[1.0]] * 3, "student": [[1.0]] * 3, "kept": [1, 1, 0]}
        told |= {"changes": ""}
        return records.Network(str(seed), "", seed, "done", "", told, {}, [], [], found)

    known = records.by_experiment([network(0, 1.0), network(1, 2.0)])
    *_, grid, aside = report.similarities(known)
    assert [part.picture.count("<svg") for part in aside.parts] == [1, 1]
    expected = ["digits", "vgg8", "kd", "1.50 ± 0.71", "55.00 ± 7.07", "25.00 ± 0.00", "2"]
    assert [[field.text for field in row] for row in grid.rows] == [expected]
    assert report.similarities({})[-1] == page.Text("Not run.")


def test_a_folder_of_records_that_is_not_there_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        report.main([f"--results={tmp_path / 'none'}"])
    assert capsys.readouterr().err == (
        f"error: --results={tmp_path / 'none'} is no folder: give one that `record` wrote\n"
    )
