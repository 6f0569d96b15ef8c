"""The names that the package itself gives, each imported when it is asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

import sskd_jax
from sskd_jax import train
from sskd_jax.exchange import classifier, torch_bridge
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS
from sskd_jax.types import UserError

ROOT = Path(__file__).resolve().parents[1]
NAMES = {
    "MODELS": MODELS,
    "METHODS": METHODS,
    "UserError": UserError,
    "from_state_dict": torch_bridge.from_state_dict,
    "load": classifier.load,
    "run": train.run,
}


def prints(program: str) -> list[str]:
    """The words that a program prints in a fresh process."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_that_of_its_module(name):
    assert getattr(sskd_jax, name) is NAMES[name]


def test_all_and_dir_list_the_public_names():
    assert set(sskd_jax.__all__) == NAMES.keys()
    assert {*NAMES, "__version__"} <= set(dir(sskd_jax))


def test_a_star_gives_all_of_them():
    names = prints("from sskd_jax import *; print(*sorted(vars()))")
    assert NAMES.keys() <= set(names)


@pytest.mark.parametrize("config", ["configs/quickstart.py", {"seed": 0}])
def test_what_is_no_config_says_what_to_give(config, tmp_path):
    kind = type(config).__name__
    with pytest.raises(UserError, match=f"the config is a {kind}: give .*quickstart.get_config"):
        sskd_jax.run(config, str(tmp_path))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'sskd_jax' has no attribute 'MODEL'"):
        sskd_jax.MODEL  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'MODEL'"):
        from sskd_jax import MODEL  # noqa: F401


def test_the_package_alone_imports_neither_jax_nor_numpy():
    program = "import sys, sskd_jax; dir(sskd_jax); print(sskd_jax.__version__, *sys.modules)"
    version, *modules = prints(program)
    assert version == sskd_jax.__version__
    heavy = {"jax", "flax", "numpy", "tensorflow"}
    assert not heavy & {module.partition(".")[0] for module in modules}


def test_a_name_imports_no_more_than_it_needs():
    program = "import sys\nfrom sskd_jax import UserError\nprint(*sys.modules)"
    modules = prints(program)
    assert "sskd_jax.types" in modules
    assert not {"sskd_jax.models", "sskd_jax.methods", "sskd_jax.exchange"} & set(modules)
