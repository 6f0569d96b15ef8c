"""The picture of the README, from networks that have hardly begun to learn."""

import numpy as np
import pytest
from PIL import Image

from experiments import figures
from experiments.scene import CHOSEN, TURNS, perform


@pytest.fixture(scope="module")
def scene():
    return perform(steps=8)


def test_every_image_is_shown_as_it_is_and_in_three_rotations(scene):
    for views in scene.image:
        for turn in range(TURNS):
            np.testing.assert_array_equal(views[turn], np.rot90(views[0], turn))


def test_predictions_and_similarities_are_such(scene):
    for chances in (scene.certain, scene.teacher, scene.student):
        np.testing.assert_allclose(np.sum(chances, -1), 1, rtol=1e-5)
    for similarity in (scene.teacher_similarity, scene.student_similarity):
        assert similarity.shape == (3 * len(CHOSEN), len(CHOSEN))
        assert np.abs(similarity).max() < 1 + 1e-5
    assert scene.kept.shape == (3 * len(CHOSEN),) and scene.kept.any()


def test_it_draws_a_small_file(scene, tmp_path):
    figures.draw(tmp_path / "sskd.png", scene)
    with Image.open(tmp_path / "sskd.png") as image:
        assert image.size == tuple(2 * side for side in figures.SIZE)
        assert len(image.getcolors()) > 100
    assert (tmp_path / "sskd.png").stat().st_size < 150_000


def test_it_draws_a_png_whatever_the_name_and_says_where_it_cannot(
    scene, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(figures, "perform", lambda: scene)
    figures.main([str(tmp_path / "sskd.txt")])
    with Image.open(tmp_path / "sskd.txt") as image:
        assert image.format == "PNG"
    with pytest.raises(SystemExit, match="2"):
        figures.main([str(tmp_path / "nowhere" / "sskd.png")])
    assert "nowhere" in capsys.readouterr().err


def test_the_picture_of_the_readme_is_there():
    with Image.open(figures.PICTURE) as image:
        assert image.size == tuple(2 * side for side in figures.SIZE)
