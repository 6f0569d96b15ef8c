"""What an installed package brings along, and what its requirements are."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sskd_jax
from sskd_jax.system.installed import with_installed_config

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_requirements_are_those_of_the_package_and_its_extra():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = {str(Requirement(line)) for line in lines if line and not line.startswith("#")}
    extra = PROJECT["optional-dependencies"]["imagenet"]
    assert listed == {str(Requirement(text)) for text in [*PROJECT["dependencies"], *extra]}


def test_the_citation_names_this_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^version: {re.escape(sskd_jax.__version__)}$", citation, re.MULTILINE)


@pytest.mark.parametrize("flag", ["", "--config="])
def test_a_config_is_found_in_any_folder(flag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = with_installed_config(f"{flag}configs/cifar.py:method=kd")
    path, _, arguments = found.removeprefix(flag).partition(":")
    assert Path(path).samefile(ROOT / "configs/cifar.py") and arguments == "method=kd"


def test_modules_are_found_beside_a_package_of_ones_own(tmp_path):
    """A folder whose own `configs` is a package, which hides other folders of that name."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").touch()
    program = (
        "from sskd_jax.system.installed import read_config\n"
        "print(read_config('configs/cifar.py:method=kd').method.name)\n"
        "import configs; print(configs.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["kd", str(tmp_path / "configs" / "__init__.py")]


def test_a_config_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cifar.py").touch()
    for argument in ("--config=configs/cifar.py", "--config=configs/nowhere.py", "--workdir=x"):
        assert with_installed_config(argument) == argument
