"""The pages say what is there: links, anchors, modules and files."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from configs.methods import ENTRIES
from sskd_jax.methods import METHODS
from sskd_jax.models import MODELS
from sskd_jax.system.installed import read_config
from sskd_jax.workdir.logbook import flatten

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FOREIGN = {"pytest", "uv"}  # modules of others, run with python -m
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
MODULE = re.compile(r"python3? -m ([\w.]+)")
CONFIG = re.compile(r"--config=(configs/\w+\.py(?::[\w=,.+]+)?)")
PLACEHOLDERS = ("NAME", "my_code", "run=")  # in a config's arguments
KEY = re.compile(r"--config\.([\w.]+)=")
FILE = re.compile(r"`((?:configs|experiments|sskd_jax|tests)/[\w/]+\.\w+)`")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The headings as GitHub names them in addresses."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """(file, anchor) of every link that leads to no other site."""
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


def is_module(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_the_readme_leads_to_every_page():
    assert {path for path, _ in links(README)} >= set(PAGES) - {README}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for path, anchor in links(page):
        assert path.exists(), path
        assert not anchor or anchor in anchors(path), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_modules_and_files_are_there(page):
    text = page.read_text()
    modules = set(MODULE.findall(text)) - FOREIGN
    assert not [module for module in modules if not is_module(module)]
    assert not [path for path in FILE.findall(text) if not (ROOT / path).is_file()]


def typed_configs(text: str) -> set[str]:
    """The configs that the commands of a text name, without those that have placeholders."""
    found = {name.rstrip(".,") for name in CONFIG.findall(text)} - {"configs/extend.py"}
    return {name for name in found if not any(part in name for part in PLACEHOLDERS)}


@cache
def known_keys() -> set[str]:
    """The keys of all configs, of one method at a time."""
    configs = [
        f"configs/{file}.py:method={name}" for file in ("cifar", "imagenet") for name in ENTRIES
    ]
    configs += [f"configs/{file}.py" for file in ("quickstart", "long_tail", "continual")]
    found = {key for name in configs for key in flatten(read_config(name).to_dict())}
    return found | {"methods", "assistant.model"}  # the latter of a page's own method


# The table of the page about faults, which is full of mistakes, is held by test_mistakes.
@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "faults"], ids=name)
def test_configs_and_their_keys_are_there(page):
    text = page.read_text()
    for config in typed_configs(text):
        read_config(config)
    typed = {key for key in KEY.findall(text) if not re.search("[A-Z]|^settings", key)}
    assert not typed - known_keys()


def test_the_readme_counts_methods_and_networks():
    text, small = README.read_text(), set(MODELS) - {"resnet18", "resnet34", "resnet50"}
    assert f"with {len(METHODS) - 1} other methods" in " ".join(text.split())
    assert f"choose among {len(METHODS)} methods and {len(small)} networks for small" in text


def test_the_tree_of_the_architecture_names_every_module():
    """All but those of methods and networks, of which it shows a few."""
    tree = set(re.findall(r"\w+", FENCE.findall((ROOT / "docs/architecture.md").read_text())[0]))
    rooms = set(ROOT.glob("sskd_jax/*/")) - {ROOT / "sskd_jax/methods", ROOT / "sskd_jax/models"}
    rooms |= {ROOT / "sskd_jax", ROOT / "experiments", ROOT / "experiments/bench"}
    assert {file.stem for room in rooms for file in room.glob("*.py")} - tree == {"__init__"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_fit_a_screen(page):
    """All but rows of tables, which have to be one line each."""
    lines = page.read_text().splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


def test_a_page_that_is_wrong_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# The `a`, and b\n[x](nowhere.md) [y](#the-a-and-b)\n```\n# no heading\n```\n")
    assert anchors(page) == {"the-a-and-b"}
    assert list(links(page)) == [(tmp_path / "nowhere.md", ""), (page, "the-a-and-b")]
    assert is_module("sskd_jax.main") and not is_module("sskd_jax.nowhere")
