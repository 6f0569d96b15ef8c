"""Runs the notebooks and keeps their outputs: python -m experiments.notebooks [PATH ...]

The kept outputs name no paths of the machine and no times of day, and their pictures have few
colours.
"""

import argparse
import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image

from sskd_jax.system.console import fail

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
COLOURS = 128  # of a picture that is kept
WIDTH = 900  # its largest width, in pixels
# The speed and the remaining time in progress lines, and a terminal's codes for bold letters.
NOISE = re.compile(r"  [\d,]+ images/s  [\d:]+ left|\x1b\[\d*m")
LONGEST = 1800  # seconds that a cell may take


def execute(
    notebook: nbformat.NotebookNode, env: Mapping[str, str], timeout: int
) -> nbformat.NotebookNode:
    """Runs a notebook from top to bottom, in the folder of this file; returns it with its outputs.

    The kernel is that of the running Python interpreter, whatever kernels are installed.

    Args:
      notebook: to run.
      env: environment variables of its kernel, added to those of this process.
      timeout: of a cell, in seconds.
    """
    # Without folders in which to look for kernels, python3 is the interpreter's own.
    specs = KernelSpecManager(kernel_dirs=[])
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    resources = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(
        notebook, km=kernel, timeout=timeout, resources=resources, record_timing=False
    )
    # By default, nbclient shuts down only kernels that it has chosen by itself.
    return client.execute(env=os.environ | env, cleanup_kc=True)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Makes the outputs of a notebook small, and as far as possible the same on every machine."""
    notebook.metadata.language_info = {"name": "python"}
    notebook.metadata.kernelspec = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = joined(list(map(plain, cell.outputs)))
        for output in cell.get("outputs", ()):
            if "text" in output:
                output.text = NOISE.sub("", output.text.replace(f"{ROOT}/", ""))
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
                data.pop("text/plain", None)


def plain(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output as it is, or its plain text if rich printed it as HTML."""
    data = output.get("data", {})
    if data.get("text/html", "").startswith("<pre"):
        return nbformat.v4.new_output("stream", text=data["text/plain"])
    return output


def joined(outputs: Sequence[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The outputs of a cell, with consecutive pieces of a stream's text joined into one."""
    whole = []
    for output in outputs:
        if whole and "text" in output and whole[-1].get("name") == output.name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def smaller(picture: str) -> str:
    """A picture as PNG in base64, of few colours and not too wide."""
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        image = image.convert("RGB")
    image.thumbnail((WIDTH, 10 * WIDTH))
    content = io.BytesIO()
    # By coverage: otherwise rare colours, such as the ends of a colour bar, become others.
    few = image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)
    few.save(content, format="png", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the notebooks that a command line names, by default all."""
    parser = argparse.ArgumentParser(prog="python -m experiments.notebooks", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, default=NOTEBOOKS)
    for path in parser.parse_args(argv).paths:
        try:
            notebook = nbformat.read(path, as_version=4)
        except OSError as error:
            fail(str(error))
        notebook = execute(notebook, {}, LONGEST)
        tidy(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
