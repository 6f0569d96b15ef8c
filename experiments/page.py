"""A page of headings, paragraphs, tables and charts, as Markdown and as one HTML file.

The HTML needs no network and no script; it follows the reader's light or dark setting, and tables
scroll within narrow screens.
"""

import html
import re
import textwrap
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from experiments.charts import COLOURS

LINE = 120  # the width of the lines in Markdown


class Field(NamedTuple):
    """A cell of a table.

    Attributes:
      text: its content; [words](address) is a link.
      shade: from -3, much less than what it is compared with, to 3, much more; None: not compared.
      hint: shown when the mouse pointer is on the cell.
      faint: whether it is shown in grey, as it is no result or has too few seeds.
    """

    text: str
    shade: int | None = None
    hint: str = ""
    faint: bool = False


class Heading(NamedTuple):
    text: str
    level: int = 2


class Text(NamedTuple):
    text: str


class Grid(NamedTuple):
    """A table: the names of its columns, and rows with a field for each column."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Field]]


class Chart(NamedTuple):
    """A chart as SVG; Markdown leaves it out."""

    title: str
    picture: str


class Caption(NamedTuple):
    """An explanation of the colours; Markdown, which has none, leaves it out."""

    text: str


class Aside(NamedTuple):
    """Parts that the HTML page shows when the reader unfolds them; Markdown leaves them out."""

    title: str
    parts: Sequence["Part"]


class Download(NamedTuple):
    """A file for download that is embedded in the HTML page; Markdown leaves it out."""

    name: str
    content: str


Part = Heading | Text | Caption | Grid | Chart | Aside | Download


def markdown(parts: Iterable[Part]) -> str:
    """The parts as Markdown."""
    blocks = []
    for part in parts:
        if isinstance(part, Heading):
            blocks.append(f"{'#' * part.level} {part.text}")
        elif isinstance(part, Text):
            wrapped = textwrap.fill(part.text, LINE, break_long_words=False, break_on_hyphens=False)
            blocks.append(wrapped)
        elif isinstance(part, Grid):
            blocks.append(markdown_table(part))
    return "\n\n".join(blocks) + "\n"


def markdown_table(grid: Grid) -> str:
    lines = [grid.columns, ["---"] * len(grid.columns)]
    lines += [[re.sub(r"[|<]", r"\\\g<0>", field.text) for field in row] for row in grid.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(title: str, parts: Iterable[Part]) -> str:
    """The parts as one HTML file."""
    body = "\n".join(map(element, parts))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def element(part: Part) -> str:
    """A part as HTML."""
    if isinstance(part, Heading):
        return f"<h{part.level}>{marked(part.text)}</h{part.level}>"
    if isinstance(part, Text):
        return f"<p>{marked(part.text)}</p>"
    if isinstance(part, Caption):
        return f'<p class="caption">{marked(part.text)}</p>'
    if isinstance(part, Grid):
        return table(part)
    if isinstance(part, Chart):
        title = html.escape(part.title)
        return f"<figure><figcaption>{title}</figcaption>{part.picture}</figure>"
    if isinstance(part, Aside):
        inner = "\n".join(map(element, part.parts))
        return f"<details><summary>{html.escape(part.title)}</summary>{inner}</details>"
    address = "data:text/csv;charset=utf-8," + urllib.parse.quote(part.content, safe=",/")
    name = html.escape(part.name)
    return f'<p><a download="{name}" href="{address}">{name}</a></p>'


def marked(text: str) -> str:
    """Text with `code` and [links](address) as HTML."""
    text = html.escape(text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", r'<a href="\2">\1</a>', text)


def table(grid: Grid) -> str:
    """A table as HTML, which scrolls on its own if it is wider than the page."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in grid.columns)
    rows = "\n".join(f"<tr>{''.join(map(field, row))}</tr>" for row in grid.rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )


def field(one: Field) -> str:
    """A cell of a table as HTML."""
    names = [f"s{one.shade}".replace("-", "m")] if one.shade is not None else []
    names += ["faint"] if one.faint else []
    kind = f' class="{" ".join(names)}"' if names else ""
    hint = f' title="{html.escape(one.hint)}"' if one.hint else ""
    return f"<td{kind}{hint}>{marked(one.text)}</td>"


STYLE = (
    """
:root { --ink: #1d2630; --paper: #ffffff; --pale: #e3e7eb; --grey: #65717d; --link: #1f5f99;
  --up: 46, 140, 87; --down: 196, 72, 52;
  --c0: #2f6690; --c1: #d0702c; --c2: #2a9d6f; --c3: #b5394a; --c4: #7a5ba6; --c5: #8a6d3b;
  --c6: #c2629a; --c7: #5f6b76; --c8: #1aa0b8; --c9: #8fae2f; --c10: #e0a526; --c11: #6b3e2e; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe5ea; --paper: #14191f; --pale: #2c353e;
  --grey: #93a0ac; --link: #7db7e8; --up: 70, 190, 125; --down: 230, 105, 85;
  --c0: #6ba9d8; --c1: #f0985a; --c2: #55cf9f; --c3: #ec7485; --c4: #b297e0; --c5: #cdb074;
  --c6: #e793c3; --c7: #a5b1bc; --c8: #5fd2e6; --c9: #c1dd6b; --c10: #f6cf74; --c11: #c79a88; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-top: 1px solid var(--pale);
  padding-top: 1rem; }
p { max-width: 75ch; } a { color: var(--link); }
code { font-size: .86em; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid var(--pale);
  white-space: nowrap; } td:has(code) { white-space: normal; min-width: 24rem; }
th { color: var(--grey); font-weight: 600; }
.faint { color: var(--grey); font-style: italic; }
.s1 { background: rgba(var(--up), .14); } .s2 { background: rgba(var(--up), .28); }
.s3 { background: rgba(var(--up), .44); } .sm1 { background: rgba(var(--down), .14); }
.sm2 { background: rgba(var(--down), .28); } .sm3 { background: rgba(var(--down), .44); }
figure { margin: 1rem 0; max-width: 720px; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--grey);
  font: 11px system-ui, sans-serif; }
.grid { stroke: var(--pale); } .line { fill: none; stroke: var(--c); stroke-width: 2; }
.band { fill: var(--c); opacity: .16; } circle { fill: var(--c); }
rect { fill: var(--c); } .own { stroke: var(--c3); stroke-width: 1.5; }
.crossed { stroke: var(--ink); stroke-width: 1.5; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; margin: .3rem 0; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 50%;
  background: var(--c); margin-right: .4em; }
"""
    + "".join(f".c{place} {{ --c: var(--c{place}); }}\n" for place in range(COLOURS))
    + """
.caption { color: var(--grey); font-size: .85rem; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--link); }
"""
)
