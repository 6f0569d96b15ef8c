"""Charts: numbers lie where they should, and a chart is sound XML."""

import re
from xml.etree import ElementTree

import pytest

from experiments import charts
from experiments.charts import Frame, Line


def test_places():
    frame = Frame((0.0, 10.0), (50.0, 100.0))
    assert frame.place(0, 50) == (charts.LEFT, charts.HEIGHT - charts.BOTTOM)
    assert frame.place(10, 100) == (charts.WIDTH - charts.RIGHT, charts.TOP)
    log = Frame((1.0, 100.0), (0.0, 1.0), log=True)
    middle = (charts.LEFT + charts.WIDTH - charts.RIGHT) / 2
    assert log.place(10, 0)[0] == pytest.approx(middle)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (28.3, 39.4, [30, 35]), (0.25, 1, [0.4, 0.6, 0.8, 1])],
)
def test_ticks_are_round(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_a_band_reaches_from_the_least_to_the_largest_seed():
    curves = [{1: 10.0, 2: 20.0, 3: 30.0}, {1: 14.0, 2: 20.0}]
    assert charts.band(curves) == [(1, 12.0, 10.0, 14.0), (2, 20.0, 20.0, 20.0)]
    assert charts.band([]) == []


@pytest.mark.parametrize("options", [{}, {"joined": False, "log": True}])
def test_a_chart_is_sound_and_names_its_lines(options):
    drawn = [Line("kd & at", [(1, 5, 4, 6), (10, 6, 5, 7)]), Line("<sskd>", [(2, 7, 7, 7)])]
    text = charts.lines(drawn, "epoch", "top-1, %", **options)
    root = ElementTree.fromstring(f"<div>{text}</div>")
    assert len(root.findall(".//circle")) == 3
    assert "kd & at" in "".join(root.itertext()) and "<sskd>" in "".join(root.itertext())
    assert not re.search(r"nan|inf", text)


def test_one_point_and_none():
    assert charts.lines([], "x", "y") == charts.lines([Line("a", [])], "x", "y") == ""
    ElementTree.fromstring(f"<div>{charts.lines([Line('a', [(1, 2, 2, 2)])], 'x', 'y')}</div>")


def test_matrices_cross_what_is_not_kept_and_frame_an_images_own_column():
    teacher = [[1.0, -1.0]] * 3 + [[0.0, 0.5]] * 3
    text = charts.matrices(teacher, teacher, [1, 1, 1, 1, 0, 1])
    root = ElementTree.fromstring(text)
    cells = [node for node in root if node.tag == "rect"]
    assert len(cells) == 24 and cells[0].get("fill-opacity") == "1.00"
    assert [node.get("class") for node in cells[:2]] == ["own", None]
    assert len([node for node in root if node.get("class") == "crossed"]) == 2
