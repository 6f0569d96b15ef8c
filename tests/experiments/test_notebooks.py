"""The notebooks from top to bottom, with small networks, in a kernel of this very Python."""

import base64
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from processes import quick_environment

from sskd_jax.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "experiments").glob("*.ipynb"))
COLAB, TOUR = (ROOT / "experiments" / name for name in ("sskd_colab.ipynb", "method_tour.ipynb"))
# Methods for other data are not in the tour: with a long tail, or that comes task by task.
OTHERS = ("ssd_lt", "logit_adjustment", "ldam", "decoupled", "der", "coca")
TAUGHT = [name for name in METHODS if name not in OTHERS]
SMALL = """
REPOSITORY, WORKDIR, STOP_AFTER, TRAIN_CIFAR = "", {workdir!r}, 1, False
QUICKSTART_FLAGS = ("--config.methods=\\"('scratch','sskd')\\" --config.teacher.model=resnet8 "
                    "--config.teacher.epochs=2 --config.head.epochs=1 --config.student.epochs=2")
"""
SMALL_TOUR = """
WORKDIR, TEACHER, STUDENT = {workdir!r}, "resnet8", "resnet8"
TEACHER_EPOCHS, STUDENT_EPOCHS, FIT_STEPS = 1, 2, 0
"""
BLIND = ("sskd, head", "hsakd, branches", "hsakd_joint, teacher")  # stages without the student
FIT = """
one, other = (
    lessons("cc", steps)[-1].variables["student_embed"]["params"]["linear"]["bias"]
    for steps in (0, 2)
)
assert np.isfinite(other).all() and np.any(one != other)
"""  # behind the tour, in which nothing is fitted: every method would be compiled


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.fixture
def kernel() -> Iterator[AsyncKernelManager]:
    """One that runs this Python, under a name that no installed kernel has."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "this"
        spec.mkdir()
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        content = {"argv": argv, "display_name": "this", "language": "python"}
        (spec / "kernel.json").write_text(json.dumps(content))
        manager = KernelSpecManager(kernel_dirs=[folder], ensure_native_kernel=False)
        yield AsyncKernelManager(kernel_name="this", kernel_spec_manager=manager)


def execute(
    path: Path, parameters: str, kernel: AsyncKernelManager, folder: Path, more: str = ""
) -> nbformat.NotebookNode:
    """The notebook with its outputs, and with `more` as its last cell.

    XLA's programs are kept in `folder`.
    """
    notebook = read(path)
    notebook.cells.append(nbformat.v4.new_code_cell(more))
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    cell.source = parameters.format(workdir=str(folder / "runs"))
    env = os.environ | quick_environment(1) | {"XDG_CACHE_HOME": str(folder / "cache")}
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, km=kernel, timeout=300, resources=resources)
    return client.execute(env=env)


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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_clean(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users|usr|opt)\b", path.read_text())


def test_the_tour_has_a_section_for_every_method():
    text = "\n".join(cell.source for cell in read(TOUR).cells)
    headings = re.findall(r"^## `(\w+)`", text, re.MULTILINE)
    assert sorted(headings) == sorted(TAUGHT)


@pytest.mark.slow
def test_colab_notebook(kernel, tmp_path):
    notebook, runs = execute(COLAB, SMALL, kernel, tmp_path), tmp_path / "runs"
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
def test_method_tour(kernel, tmp_path):
    notebook = execute(TOUR, SMALL_TOUR, kernel, tmp_path, FIT)
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
