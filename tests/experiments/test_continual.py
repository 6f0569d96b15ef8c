"""What is measured of a run on a stream of tasks."""

import json

import numpy as np
import pytest
from golden import Golden

from experiments import continual
from sskd_jax.system.paths import locate
from sskd_jax.types import UserError


@pytest.mark.parametrize("score", continual.SCORES)
def test_the_measures_are_the_recorded_ones(shared, score):
    gold = Golden(shared / "golden").under("coca.npz", f"metrics/{score}")
    found = continual.measures(np.float64(gold["accuracy"]), np.float64(gold["random"]))
    expected = gold["mean"][-1], gold["forgetting"], gold["bwt"], gold["fwt"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def workdir(folder, epochs: int, split: str = "test"):
    """A run of two tasks of two epochs each, of which `epochs` are done."""
    method = {"name": "der", "task_classes": 5, "task_epochs": 2}
    config = {"methods": ["er"], "settings": {"er": {"method": method}}, "student": {"epochs": 4}}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [
        {
            "stage": "er/student",
            "epoch": epoch,
            "step": epoch,
            f"{split}/class_il_0": 0.9 - epoch / 10,
            f"{split}/class_il_1": epoch / 10,
            f"{split}/task_il_0": 0.8,
            f"{split}/task_il_1": 0.5,
        }
        for epoch in range(1, epochs + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return locate(str(folder))


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_run_is_measured_behind_each_task(tmp_path, capsys, split):
    found = continual.read(workdir(tmp_path, 4, split))
    accuracy, own = found["er/student", "class_il"]
    np.testing.assert_allclose(accuracy, [[70, 20], [50, 40]])
    np.testing.assert_allclose(own, (45, 20, -20, 20 - 10), atol=1e-9)
    np.testing.assert_allclose(found["er/student", "task_il"][1], (65, 0, 0, 50 - 20))
    continual.main([str(tmp_path)])
    line = "| er/student | class_il | 45.00 | 20.00 | -20.00 | 10.00 |"
    assert line in capsys.readouterr().out.splitlines()
    assert (tmp_path / "forgetting.png").stat().st_size > 5000


def test_mistakes_are_told(tmp_path, capsys):
    for epochs in (0, 3):
        with pytest.raises(UserError, match="er/student is not done"):
            continual.read(workdir(tmp_path, epochs))
    for task in (0, 1):
        file = workdir(tmp_path, 4) / "metrics.jsonl"
        file.write_text(file.read_text().replace(f"class_il_{task}", "other"))
        with pytest.raises(UserError, match=f"student was measured on no image of task {task}: "):
            continual.read(locate(str(tmp_path)))
    config = {"methods": ["kd"], "settings": {"kd": {"method": {"name": "kd"}}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="kd/student has no tasks: give a run of configs/continual"):
        continual.read(locate(str(tmp_path)))
    for name, text in {"nowhere": "there is no ", "http://x": "http://x"}.items():
        with pytest.raises(SystemExit, match="2"):
            continual.main([str(tmp_path / name) if "/" not in name else name])
        told = capsys.readouterr().err
        assert told.startswith("error: ") and told.count("\n") == 1
        assert text in told
