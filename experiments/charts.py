"""Charts as SVG text for a page: lines with bands, points and matrices, in the page's colours."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44
COLOURS = 12  # the page has the classes c0 to c11


class Line(NamedTuple):
    """A line through points (x, middle, low, high), with a band from low to high."""

    name: str
    points: Sequence[tuple[float, float, float, float]]


class Frame(NamedTuple):
    """The ranges (least, largest) of a chart's x and y, and whether x has a logarithmic scale."""

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The position of the point (x, y) in the picture, in units of the SVG."""
        (left, right), (low, high) = self.x, self.y
        if self.log:
            x, left, right = math.log(x), math.log(left), math.log(right)
        across = (x - left) / ((right - left) or 1)
        up = (y - low) / ((high - low) or 1)
        inner = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return round(LEFT + across * inner[0], 1), round(HEIGHT - BOTTOM - up * inner[1], 1)


def lines(
    drawn: Sequence[Line], x_label: str, y_label: str, *, joined: bool = True, log: bool = False
) -> str:
    """A chart of lines, or of points that are not joined; "" if there is nothing to draw.

    Args:
      drawn: the lines, each in a colour of its own.
      x_label, y_label: the labels of the axes.
      joined: whether the points of a line are joined, with a band; else bars show low to high.
      log: whether the x axis is logarithmic.
    """
    points = [point for line in drawn for point in line.points]
    if not points:
        return ""
    xs = [x for x, *_ in points]
    around = (min(xs) / 1.3, max(xs) * 1.3) if log else (min(xs), max(xs))
    low, high = min(point[2] for point in points), max(point[3] for point in points)
    margin = 0.05 * ((high - low) or 1)
    frame = Frame(around, (low - margin, high + margin), log)
    parts = [axes(frame, x_label, y_label)]
    for place, line in enumerate(drawn):
        colour = f"c{place % COLOURS}"
        parts.append(joined_line(frame, line, colour) if joined else marks(frame, line, colour))
    picture = "".join(parts)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(y_label)} by {html.escape(x_label)}">{picture}</svg>'
        + legend([line.name for line in drawn])
    )


def joined_line(frame: Frame, line: Line, colour: str) -> str:
    """A line through the middles on a band from low to high."""
    above = [frame.place(x, high) for x, _, _, high in line.points]
    below = [frame.place(x, low) for x, _, low, _ in reversed(line.points)]
    middle = [frame.place(x, y) for x, y, _, _ in line.points]
    title = f"<title>{html.escape(line.name)}</title>"
    return (
        f'<g class="{colour}">{title}<polygon class="band" points="{spelt([*above, *below])}"/>'
        f'<polyline class="line" points="{spelt(middle)}"/>{dots(middle)}</g>'
    )


def marks(frame: Frame, line: Line, colour: str) -> str:
    """Points with bars from low to high; the line's name is their tooltip."""
    parts = []
    for x, y, low, high in line.points:
        (left, top), (_, bottom) = frame.place(x, high), frame.place(x, low)
        parts.append(f'<path class="line" d="M{left} {top}V{bottom}"/>')
        parts.append(dots([frame.place(x, y)]))
    return f'<g class="{colour}"><title>{html.escape(line.name)}</title>{"".join(parts)}</g>'


def dots(places: Sequence[tuple[float, float]]) -> str:
    return "".join(f'<circle cx="{x}" cy="{y}" r="3"/>' for x, y in places)


def spelt(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)


Matrix = Sequence[Sequence[float]]


def matrices(teacher: Matrix, student: Matrix, kept: Sequence[float]) -> str:
    """Two matrices of similarities from -1 to 1 side by side; rows that are not kept are crossed.

    Every three rows are the rotations of one image, whose own column is framed.
    """
    side, between = 20, 60
    wide, high = side * len(teacher[0]), side * len(teacher)
    parts = []
    for place, (name, matrix) in enumerate((("teacher", teacher), ("student", student))):
        left = place * (wide + between)
        parts.append(f'<text x="{left}" y="12">{name}</text>')
        for row, values in enumerate(matrix):
            top = 20 + side * row
            for column, value in enumerate(values):
                own = ' class="own"' if column == row // 3 else ""
                parts.append(
                    f'<rect x="{left + side * column}" y="{top}" width="{side - 1}" '
                    f'height="{side - 1}" fill-opacity="{(value + 1) / 2:.2f}"{own}/>'
                )
            if not kept[row]:
                middle = top + side / 2
                parts.append(f'<path class="crossed" d="M{left} {middle}H{left + wide}"/>')
    opening = f'<svg viewBox="0 0 {WIDTH} {high + 24}" role="img" class="c0"'
    return f'{opening} aria-label="similarities">{"".join(parts)}</svg>'


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between low and high, about five of them."""
    raw = (high - low) / 5 or 1.0
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]


def axes(frame: Frame, x_label: str, y_label: str) -> str:
    """The horizontal grid lines, and the numbers and labels of both axes."""
    low, high = frame.x
    if frame.log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        across = [f * 10.0**d for d in decades for f in (1, 2, 5) if low <= f * 10.0**d <= high]
    if not frame.log or len(across) < 2:
        across = ticks(low, high)
    parts = []
    for value in ticks(*frame.y):
        _, y = frame.place(low, value)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    for value in across:
        x, _ = frame.place(value, frame.y[0])
        parts.append(f'<text x="{x}" y="{HEIGHT - 26}" text-anchor="middle">{value:g}</text>')
    parts.append(
        f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
    )
    parts.append(
        f'<text transform="translate(12 {(HEIGHT - BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(y_label)}</text>'
    )
    return "".join(parts)


def legend(names: Sequence[str]) -> str:
    """The legend of a chart: the name of every line beside its colour."""
    items = (
        f'<span><i class="c{place % COLOURS}"></i>{html.escape(name)}</span>'
        for place, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(items)}</p>'


def band(curves: Sequence[Mapping[float, float]]) -> list[tuple[float, float, float, float]]:
    """Points (x, mean, least, largest) of several curves, at each x that all of them have."""
    shared = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    points = []
    for x in shared:
        values = [curve[x] for curve in curves]
        points.append((x, sum(values) / len(values), min(values), max(values)))
    return points
