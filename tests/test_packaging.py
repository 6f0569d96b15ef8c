"""What an installed package brings along, and what its requirements are."""

import re
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


def test_a_config_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cifar.py").touch()
    for argument in ("--config=configs/cifar.py", "--config=configs/nowhere.py", "--workdir=x"):
        assert with_installed_config(argument) == argument
