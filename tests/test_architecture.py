"""The rules of the house, held by reading its source: which way imports run, and who knows what."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from configs import methods
from sskd_jax.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "sskd_jax"
SOURCES = sorted((ROOT / PACKAGE).rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))

# The floors of the house, lowest first. A file imports from the floors below its own, and from
# its own room; that is the folder, or the file itself where it lies in none.
FLOORS = (
    {"types", "rules"},
    {"axis", "distortions"},
    {"losses", "layers", "views", "system"},
    {"methods", "models", "data"},
    {"workdir", "settings", "configs"},
    {"engine"},
    {"sections"},
    {"plan", "exchange", "names"},
    {"train"},
    {"main"},
    {"commands"},
    {"__main__"},
    {"experiments"},
)


def module_name(path: Path) -> str:
    """sskd_jax.models.vgg for sskd_jax/models/vgg.py; the folder for an __init__.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in (*SOURCES, *CONFIGS, *EXPERIMENTS)}


def room(module: str) -> str:
    """sskd_jax.models.vgg -> models; configs.cifar -> configs; the package itself -> "sskd_jax"."""
    return module.removeprefix(f"{PACKAGE}.").split(".")[0]


def floor(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere below: a.b for `from a import b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they come from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_imported(tree: ast.AST, modules: Iterable[str] = MODULES) -> set[str]:
    """The files of ours among them: a.b where that is one, or else a."""
    found = set()
    for name in imported(tree):
        parent = name.rpartition(".")[0]
        found |= {module for module in (name, parent) if module in modules} - {PACKAGE}
        if name in modules:
            found -= {parent}
    return found


def forbidden(module: str, tree: ast.AST) -> set[str]:
    """The files that a module imports from its own floor, but another room, or from above."""
    below = {name for name in MODULES if name != PACKAGE and floor(name) < floor(module)}
    own = {name for name in MODULES if room(name) == room(module)}
    return files_imported(tree) - below - own


def circle(graph: dict[str, set[str]]) -> set[str]:
    """The nodes from which following the arrows never ends; none where the graph has no circle."""
    left = dict(graph)
    while ready := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in ready}
    return set(left)


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
    is_expression = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_expression and isinstance(node.value.value, str)


def strings_compared(tree: ast.AST) -> set[str]:
    """Strings that something is compared with, by ==, in or match."""
    compared = [node for node in ast.walk(tree) if isinstance(node, (ast.Compare, ast.MatchValue))]
    constants = (node for root in compared for node in ast.walk(root))
    values = (node.value for node in constants if isinstance(node, ast.Constant))
    return {value for value in values if isinstance(value, str)}


def test_there_is_something_to_read():
    expected = {"types", "methods.sskd", "models", "main", "engine.step"}
    assert {f"{PACKAGE}.{name}" for name in expected} <= MODULES.keys()
    rooms = {room(name) for name in MODULES if name != PACKAGE}
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize("module", [name for name in MODULES if name != PACKAGE])
def test_imports_run_down(module):
    assert not forbidden(module, parse(MODULES[module]))


def test_no_files_import_each_other_in_a_circle():
    graph = {module: files_imported(parse(path)) for module, path in MODULES.items()}
    assert not circle(graph)


def test_a_circle_would_be_found():
    assert circle({"a": {"b"}, "b": {"a"}, "c": {"a"}, "d": set()}) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("sskd_jax.methods.kd", "from sskd_jax.models import MODELS", {"sskd_jax.models"}),
        ("sskd_jax.methods.kd", "def f():\n    import sskd_jax.train", {"sskd_jax.train"}),
        ("sskd_jax.methods.kd", "from sskd_jax.methods import common", set()),
        ("sskd_jax.models.vgg", "from sskd_jax.models.network import Network", set()),
        ("sskd_jax.types", "from sskd_jax import losses", {"sskd_jax.losses"}),
        ("sskd_jax.data.jpeg", "from sskd_jax.engine import step", {"sskd_jax.engine.step"}),
        ("sskd_jax.losses", "from sskd_jax import views", {"sskd_jax.views"}),
        ("configs.cifar", "from sskd_jax.engine.step import Task", {"sskd_jax.engine.step"}),
    ],
)
def test_a_wrong_import_would_be_found(module, source, expected):
    assert forbidden(module, ast.parse(source)) == expected


def test_main_imports_what_takes_seconds_only_when_it_is_needed():
    tree = parse(ROOT / PACKAGE / "main.py")
    statements = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    rooms = ("console", "distributed", "early", "hints", "installed")
    leaves = {f"{PACKAGE}.types", *(f"{PACKAGE}.system.{name}" for name in rooms)}
    assert files_imported(ast.Module(statements, [])) == leaves
    assert files_imported(tree) == leaves | {f"{PACKAGE}.train", f"{PACKAGE}.names"}


def test_methods_know_the_axis_by_two_words():
    """A method gathers by `everywhere` and cuts by `share`; it knows no device."""
    for path in (ROOT / PACKAGE / "methods").glob("*.py"):
        names = {name for name in imported(parse(path)) if name.startswith(f"{PACKAGE}.axis.")}
        assert names <= {f"{PACKAGE}.axis.everywhere", f"{PACKAGE}.axis.share"}


def test_one_file_maps_and_one_takes_gradients():
    """pmap is called in one file, and the gradient of a whole loss is taken in another."""
    texts = {module: code_alone(parse(path)) for module, path in MODULES.items()}
    ours = {module: text for module, text in texts.items() if module.startswith(PACKAGE)}
    assert {name for name, text in ours.items() if "jax.pmap" in text} == {
        f"{PACKAGE}.engine.devices"
    }
    # A convolution has a derivative of its own.
    assert {
        name for name, text in ours.items() if re.search(r"jax\.(value_and_grad|grad|vjp)\(", text)
    } == {f"{PACKAGE}.engine.step", f"{PACKAGE}.layers.convolution"}


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 400


def test_main_is_flags_and_one_call():
    assert len((ROOT / PACKAGE / "main.py").read_text().splitlines()) <= 110


@pytest.mark.parametrize("path", (*SOURCES, *CONFIGS), ids=module_name)
def test_nobody_imports_pytorch_and_only_its_room_knows_it(path):
    tree = parse(path)
    assert not [name for name in imported(tree) if name.split(".")[0] in ("torch", "torchvision")]
    if path.parent.name != "exchange":
        assert not re.findall(r"(?i)\w*torch(?!_bridge|_file)\w*", code_alone(tree))


def test_comments_and_docstrings_may_name_pytorch():
    source = '"""As torch does."""\nx = 1  # as torch does\n"""torch, too."""\n'
    assert "torch" not in code_alone(ast.parse(source))
    assert "torch" in code_alone(ast.parse(source + 'y = "torch"'))


OUTSIDE = [path for path in SOURCES if path.parent.name != "methods"]
TERMS = {
    term
    for name, entry in methods.METHODS.items()
    for stage in METHODS[name](**entry.numbers).values()
    for term in stage.terms
}


@pytest.mark.parametrize("path", OUTSIDE, ids=module_name)
def test_nobody_asks_which_method_or_which_term_it_is(path):
    assert not strings_compared(parse(path)) & (METHODS.keys() | TERMS)


def test_terms_are_known():
    assert {"ce", "kd", "tf", "ss", "ab", "reconstruction"} <= TERMS


@pytest.mark.parametrize(
    "source",
    [
        'if method == "sskd": pass',
        'x = name in ("kd", "crd")',
        'x = "kd" != name',
        'match name:\n    case "sskd": pass',
        'x = "ce" in terms',
    ],
)
def test_a_question_for_the_method_or_a_term_would_be_found(source):
    assert strings_compared(ast.parse(source)) & (METHODS.keys() | TERMS)
    assert not strings_compared(ast.parse('METHODS["scratch"]()')) & METHODS.keys()
