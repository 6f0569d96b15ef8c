"""The rules of the house, held by reading its source: which way imports run, how long files are, who knows what."""
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sskd_jax.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "sskd_jax"
SOURCES = sorted((ROOT / PACKAGE).rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))

# What each room may import besides `types`; a room that is not listed here is a leaf, which may import only that.
LEAVES = {"types", "losses", "initializers", "optim", "quiet", "console", "safe_pickle", "devices", "distributed",
          "interruption"}
ALLOWED = {
    "types": set(),
    "paths": {"quiet"},
    "logbook": {"paths", "quiet"},
    "checkpoint": {"console", "paths", "quiet"},
    "settings": {"methods", "models"},
    "torch_file": {"safe_pickle"},
    "torch_bridge": {"models", "torch_file"},
    "beside": {"losses"},
    "convolution": {"initializers"},
    "connectors": {"convolution", "initializers"},
    "methods": {"beside", "connectors", "convolution", "losses", "initializers"},
    "models": {"convolution", "initializers", "models"},
    "data": {"console", "data", "devices", "paths", "quiet", "safe_pickle"},
    "step": {"data", "devices"},
    "evaluate": {"data", "devices", "step"},
    "report": {"console", "data", "logbook"},
    "stage": {"checkpoint", "console", "data", "devices", "evaluate", "interruption", "logbook", "step"},
    "train": {"checkpoint", "console", "data", "devices", "evaluate", "interruption", "logbook", "methods", "models",
              "optim", "paths", "quiet", "report", "settings", "stage", "step", "torch_bridge"},
    "export": {"data", "logbook", "models", "paths", "stage", "torch_bridge", "torch_file"},
    "main": {"distributed", "train"},
}


def room(module: str) -> str:
    """sskd_jax.models.vgg -> models."""
    return module.split(".")[1]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere below, and what is imported from a package: a.b for `from a import b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they come from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(tree: ast.AST) -> set[str]:
    """The rooms of this package that are imported."""
    return {room(name) for name in imported(tree) if name.startswith(f"{PACKAGE}.")}


def forbidden(module: str, tree: ast.AST) -> set[str]:
    """The rooms that a module imports and must not. A package may import its own modules where it lists them."""
    if module == PACKAGE:
        return ours(tree)
    allowed = ALLOWED.get(room(module), set()) | ({"types"} if room(module) != "types" else set())
    return ours(tree) - allowed - ({room(module)} if module.count(".") == 1 else set())


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def code_alone(tree: ast.Module) -> str:
    """The source without comments and docstrings."""
    for node in ast.walk(tree):
        for body in (getattr(node, field, None) for field in ("body", "orelse", "finalbody")):
            if isinstance(body, list):
                body[:] = [line for line in body if not is_text(line)] or [ast.Pass()]
    return ast.unparse(tree)


def is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def method_names_compared(tree: ast.AST) -> set[str]:
    """Names of methods that something is compared with, by ==, in or match."""
    compared = [node for node in ast.walk(tree) if isinstance(node, (ast.Compare, ast.MatchValue))]
    return {leaf.value for node in compared for leaf in ast.walk(node)
            if isinstance(leaf, ast.Constant) and leaf.value in METHODS}


def test_there_is_something_to_read():
    names = {module_name(path) for path in SOURCES}
    assert {"sskd_jax.types", "sskd_jax.methods.sskd", "sskd_jax.models", "sskd_jax.main"} <= names
    assert set(ALLOWED) <= {room(name) for name in names if "." in name}
    assert CONFIGS


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_one_way(path):
    assert not forbidden(module_name(path), parse(path))


def test_the_rules_have_no_circle():
    known, rules = set(LEAVES), {name: allowed - {name} for name, allowed in ALLOWED.items() if name not in LEAVES}
    while ready := {name for name, allowed in rules.items() if allowed <= known}:
        known |= ready
        rules = {name: allowed for name, allowed in rules.items() if name not in ready}
    assert not rules


@pytest.mark.parametrize(("module", "source", "expected"), [
    ("sskd_jax.methods.kd", "from sskd_jax.models import MODELS", {"models"}),
    ("sskd_jax.methods.kd", "def f():\n    import sskd_jax.train", {"train"}),
    ("sskd_jax.methods.kd", "from sskd_jax.methods import sskd", {"methods"}),
    ("sskd_jax.methods", "from sskd_jax.methods import kd", set()),
    ("sskd_jax.models.vgg", "from sskd_jax.models.layers import Network", set()),
    ("sskd_jax.types", "from sskd_jax import losses", {"losses"}),
    ("sskd_jax.newcomer", "from sskd_jax import step, types", {"step"}),
    ("sskd_jax", "from sskd_jax import train", {"train"}),
])
def test_a_wrong_import_would_be_found(module, source, expected):
    assert forbidden(module, ast.parse(source)) == expected


def test_main_imports_train_only_when_it_runs():
    tree = parse(ROOT / PACKAGE / "main.py")
    at_once = ast.Module([node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
    assert ours(at_once) == {"types", "distributed"}
    assert ours(tree) == {"types", "distributed", "train"}


@pytest.mark.parametrize("path", CONFIGS, ids=module_name)
def test_configs_import_no_machinery(path):
    assert ours(parse(path)) <= {"types", "methods", "models"}


@pytest.mark.parametrize("path", SOURCES + CONFIGS, ids=module_name)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 300


def test_main_is_flags_and_one_call():
    assert len((ROOT / PACKAGE / "main.py").read_text().splitlines()) <= 80


@pytest.mark.parametrize("path", SOURCES + CONFIGS, ids=module_name)
def test_nobody_imports_pytorch_and_only_its_files_know_it(path):
    tree = parse(path)
    assert not [name for name in imported(tree) if name.split(".")[0] in ("torch", "torchvision")]
    if path.name not in ("torch_bridge.py", "torch_file.py"):
        assert not re.findall(r"(?i)\w*torch(?!_bridge|_file)\w*", code_alone(tree))


def test_comments_and_docstrings_may_name_pytorch():
    source = '"""As torch does."""\nx = 1  # as torch does\n"""torch, too."""\n'
    assert "torch" not in code_alone(ast.parse(source))
    assert "torch" in code_alone(ast.parse(source + 'y = "torch"'))


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent.name != "methods"], ids=module_name)
def test_nobody_asks_which_method_it_is(path):
    assert not method_names_compared(parse(path))


@pytest.mark.parametrize("source", ['if method == "sskd": pass', 'x = name in ("kd", "crd")', 'x = "kd" != name',
                                    'match name:\n    case "sskd": pass'])
def test_a_question_for_the_method_would_be_found(source):
    assert method_names_compared(ast.parse(source))
    assert not method_names_compared(ast.parse('METHODS["scratch"]()\nx = name == "ce"'))
