"""The notebooks from top to bottom, with small networks, in a kernel of this very Python."""

import base64
import io
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from processes import environment

from experiments import notebooks
from sskd_jax.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
COLAB, TOUR = (notebooks.FOLDER / name for name in ("sskd_colab.ipynb", "method_tour.ipynb"))
# Methods for other data are not in the tour, with a long tail, or that comes task by task; nor is
# SSKD with other tasks.
OTHERS = ("ssd_lt", "logit_adjustment", "ldam", "decoupled", "der", "coca", "pretext")
TAUGHT = [name for name in METHODS if name not in OTHERS]
SMALL = """
REPOSITORY, WORKDIR, STOP_AFTER, TRAIN_CIFAR = "", {workdir!r}, 1, False
QUICKSTART_FLAGS = ("--config.seeds=1 --config.teacher.model=resnet8 "
                    "--config.methods=\\"('scratch','sskd')\\" "
                    "--config.teacher.epochs=2 --config.head.epochs=1 --config.student.epochs=2 "
                    "--config.teacher.images.share=0.2 --config.head.images.share=0.2")
"""
SMALL_TOUR = """
from functools import partial
import tiny
from sskd_jax.models import MODELS
MODELS["tiny"] = partial(tiny.TinyNet, blocks=(1, 1, 1), widths=(8, 8, 16, 16))
REPOSITORY, WORKDIR, TEACHER, STUDENT = "", {workdir!r}, "tiny", "tiny"
TEACHER_EPOCHS, STUDENT_EPOCHS, FIT_STEPS = 1, 2, 0
"""
BLIND = ("sskd, head", "hsakd, branches", "hsakd_joint, teacher")  # stages without the student
FIT = """
one, other = (
    lessons("cc", steps)[-1].variables["student_embed"]["params"]["linear"]["bias"]
    for steps in (0, 2)
)
assert np.isfinite(other).all() and np.any(one != other)
"""  # after the tour, in which nothing is fitted: every method would be compiled


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def execute(path: Path, parameters: str, folder: Path, more: str = "") -> nbformat.NotebookNode:
    """The notebook with other parameters and its outputs, and with `more` as its last cell."""
    notebook = read(path)
    notebook.cells.append(nbformat.v4.new_code_cell(more))
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    cell.source = parameters.format(workdir=str(folder / "runs"))
    return notebooks.execute(notebook, environment(devices=1), timeout=300)


def pictures(cell: nbformat.NotebookNode) -> list[bytes]:
    """The PNG files below a cell."""
    data = [output.get("data", {}) for output in cell.get("outputs", ())]
    return [base64.b64decode(found["image/png"]) for found in data if "image/png" in found]


def shown(notebook: nbformat.NotebookNode, source: str) -> tuple[str, list[bytes]]:
    """(text, pictures) below the one cell whose source has these words."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (cell,) = (cell for cell in code if source in cell.source)
    texts = (output.get("text") or output.data.get("text/markdown", "") for output in cell.outputs)
    return "".join(texts), pictures(cell)


@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_clean(path):
    """They have run from top to bottom, and show it in few bytes that are no machine's own."""
    notebook = read(path)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not any("execution" in cell.metadata for cell in code)  # times of day
    drawn = [image for cell in code for image in pictures(cell)]
    assert drawn and max(map(len, drawn)) < 200_000 and path.stat().st_size < 1_500_000
    for output in outputs:
        output.get("data", {}).pop("image/png", None)
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users|usr|opt)\b", str(notebook))


@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_open_in_colab_and_install_themselves(path):
    cells = read(path).cells
    address = "https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/{}"
    assert address.format(f"experiments/{path.name}") in cells[0].source
    assert "REPOSITORY = " in cells[1].source
    assert any("clone" in cell.source and "requirements.txt" in cell.source for cell in cells)


def test_outputs_that_are_kept_are_small_and_of_no_machine():
    picture = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (900, 1800, 3), np.uint8)
    Image.fromarray(noise).save(picture, format="png")
    data = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": "<Figure>"}
    fancy = {"text/html": "<pre>loss <b>2.2</b></pre>", "text/plain": "loss \x1b[1m2.2\x1b[0m"}
    texts = "  1,368 images/s  0:00:04 left\n", f"results  {ROOT}/runs/results.json"
    outputs = [
        nbformat.v4.new_output("display_data", data=data),
        nbformat.v4.new_output("display_data", data=fancy),
        *(nbformat.v4.new_output("stream", text=text) for text in texts),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
    notebooks.tidy(notebook)
    (cell,) = notebook.cells
    (kept,) = pictures(cell)
    with Image.open(io.BytesIO(kept)) as image:
        assert image.size == (900, 450) and len(kept) < len(picture.getvalue()) / 4
    assert cell.outputs[1].text == "loss 2.2\nresults  runs/results.json"
    assert list(cell.outputs[0].data) == ["image/png"]


def test_the_kernel_is_this_python_and_ends(tmp_path, monkeypatch):
    """Also where another one is installed by the name that notebooks ask for."""
    installed = tmp_path / "kernels/python3"
    installed.mkdir(parents=True)
    other = {"argv": ["false"], "display_name": "Python 3", "language": "python"}
    (installed / "kernel.json").write_text(json.dumps(other))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    cell = nbformat.v4.new_code_cell("import os, sys; print(sys.executable, os.getpid())")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    (output,) = notebooks.execute(notebook, {}, timeout=60).cells[0].outputs
    python, process = output.text.split()
    assert python == sys.executable
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)


def test_the_tour_has_a_section_for_every_method():
    text = "\n".join(cell.source for cell in read(TOUR).cells)
    headings = re.findall(r"^## `(\w+)`", text, re.MULTILINE)
    assert sorted(headings) == sorted(TAUGHT)


@pytest.mark.slow
def test_colab_notebook(tmp_path):
    notebook, runs = execute(COLAB, SMALL, tmp_path), tmp_path / "runs"
    table, curves = shown(notebook, "results.json")
    assert "sskd/student" in table and curves == [(runs / "quickstart/curves.png").read_bytes()]
    for source in ("height_ratios", "unsure"):
        (picture,) = shown(notebook, source)[1]
        assert len(picture) > 10_000
    assert "exit code 75" in shown(notebook, "time_limit")[0]
    text, _ = shown(notebook, "# goes on")
    assert "goes on at step" in text or "at step 0" in shown(notebook, "time_limit")[0]
    assert "exit code 0" in text
    for kind in ("pth", "stablehlo"):
        assert (runs / f"quickstart/sskd-student.{kind}").stat().st_size > 100_000
    ours, recorded = re.findall(r"([\d.]+)%", shown(notebook, "deserialize")[0])
    assert abs(float(ours) - float(recorded)) < 1


@pytest.mark.slow
def test_method_tour(tmp_path):
    notebook = execute(TOUR, SMALL_TOUR, tmp_path, FIT)
    code = [cell for cell in notebook.cells if "def " not in cell.source]
    drawn = [cell for cell in code if "plt.show()" in cell.source]
    assert len(drawn) > 8 and all(map(pictures, drawn))
    assert pictures(next(cell for cell in code if "similarity_matrix" in cell.source))
    table, _ = shown(notebook, "every method has its section")
    rows = cells(table)
    assert {row[0].split(",")[0] for row in rows} == set(TAUGHT)
    for name, term, *numbers in rows:
        assert min(map(float, numbers)) >= 0 or term == "`vid`"
        is_blind = name in BLIND or term == "`reconstruction`"
        assert (float(numbers[-1]) > 0) != is_blind
    stages = cells(shown(notebook, "| nets that learn |")[0])
    assert {row[0] for row in stages} == set(TAUGHT)
    assert ["sskd", "`head`", "`ss`", "`head`", "`teacher`"] in stages


def cells(table: str) -> list[list[str]]:
    """The cells of a table in Markdown, without its header."""
    return [[part.strip() for part in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
