"""A table of results: its cells filled from the records, as grids and as charts."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from etils import epath

from experiments import charts, continual, plans, protocol, records, significance
from experiments.page import Aside, Caption, Chart, Field, Grid, Heading, Part, Text
from experiments.plans import Cell, Table
from experiments.records import DONE, Network
from experiments.significance import Scores, Summary
from sskd_jax.workdir.files import METRICS, read_rows

SHADES = """Cells are shaded by the distance from the published number in standard errors of the
seeds (1, 2, 3 and more), best epoch against best epoch; where nothing is published, by the distance
of the last epoch from that of the column {yardstick}."""


class Filled(NamedTuple):
    """A cell of a table with its recorded networks, one per seed, and its failed runs."""

    cell: Cell
    networks: Sequence[Network]
    failures: Sequence[Network] = ()

    @classmethod
    def of(cls, cell: Cell, seeds: Mapping[int, Network]) -> "Filled":
        """A cell with the recorded networks of its experiment, which `seeds` has by seed."""
        done = [network for network in seeds.values() if network.status == DONE]
        return cls(cell, done, [network for network in seeds.values() if network.status != DONE])

    def scores(self, pick: Callable[[Network], float | None]) -> list[float]:
        """The scores that the networks have, in per cent; one trained elsewhere counts once."""
        networks = self.networks[:1] if is_given(self.networks) else self.networks
        return [100 * score for one in networks if (score := pick(one)) is not None]

    @property
    def last(self) -> Summary | None:
        return significance.summary(self.scores(lambda network: network.last))

    @property
    def best(self) -> Summary | None:
        return significance.summary(self.scores(lambda network: network.best))

    @property
    def held_out(self) -> Summary | None:
        return significance.summary(self.scores(lambda network: network.held_out))


def fill(
    cell: Cell, known: Mapping[str, Mapping[int, Network]], of_teacher: bool = False
) -> Filled:
    """A cell with the records of its network, or of its teacher (none if it has no teacher)."""
    config = protocol.as_json(protocol.load(cell.config, cell.changes))
    if of_teacher and "teacher" not in config:
        return Filled(cell, ())
    stage = "teacher" if of_teacher else protocol.last_stage(config)
    return Filled.of(cell, known.get(protocol.identify(config, stage), {}))


def is_given(networks: Sequence[Network]) -> bool:
    """Whether the networks of an experiment are a single one, which was trained elsewhere."""
    return bool(networks) and networks[0].protocol["epochs"] == "given"


def scores_of(filled: Iterable[Filled]) -> Scores:
    """The accuracies after the last epoch in per cent, by row and column."""
    return {
        (one.cell.row, one.cell.column): one.scores(lambda network: network.last)
        for one in filled
        if one.networks
    }


# ------------------------------------------------------------ shades and grids


def shade(one: Filled, yardstick: Filled | None) -> tuple[int | None, str]:
    """(shade of a cell, its meaning in words); (None, "") if there is nothing to compare with."""
    if one.cell.paper is not None:
        other, ours, what = one.cell.paper, one.best, "the published number"
    elif yardstick is not None and yardstick.cell is not one.cell:
        other, ours, what = yardstick.last, one.last, yardstick.cell.column
    else:
        return None, ""
    distance = significance.distance(ours, other)
    if distance is None:
        return None, ""
    steps = min(3, int(abs(distance)))
    side = "above" if distance > 0 else "below"
    return steps if distance > 0 else -steps, f"{abs(distance):.1f} standard errors {side} {what}"


def overview(table: Table, filled: Sequence[Filled]) -> Grid:
    """A table's rows by columns as a grid of accuracies after the last epoch."""
    places = {(one.cell.row, one.cell.column): one for one in filled}
    rows, columns = (list(dict.fromkeys(place[axis] for place in places)) for axis in (0, 1))
    lines = []
    for row in rows:
        line = [Field(row)]
        for column in columns:
            one = places.get((row, column))
            line.append(Field("") if one is None else main_field(table, one, places))
        lines.append(line)
    return Grid(("last epoch (n)", *columns), lines)


def main_field(table: Table, one: Filled, places: Mapping[tuple[str, str], Filled]) -> Field:
    """A cell of the overview."""
    if one.last is None:
        return Field("failed" if one.failures else "not run", faint=True)
    found, hint = shade(one, places.get((one.cell.row, table.yardstick)))
    is_few = one.last.n < len(table.seeds)
    told = "; ".join(filter(None, (significance.told(one.last), failed(one))))
    return Field(told, found, hint, faint=one.last.n == 1 or is_few)


def details(table: Table, filled: Sequence[Filled], teachers: Sequence[Filled]) -> Grid:
    """A line per teacher and per cell that was run: published and own scores, budget and logs."""
    places = {(one.cell.row, one.cell.column): one for one in filled}
    lines = [detail(one, "teacher", None, None) for one in teachers if one.networks]
    for one in filled:
        if one.networks or one.failures:
            yardstick = places.get((one.cell.row, table.yardstick))
            lines.append(detail(one, one.cell.column, one.cell.paper, yardstick))
    columns = ("row", "method", "paper", "ours, last", "ours, best", "held out", "n", "budget")
    return Grid((*columns, "log of seed"), lines)


def detail(one: Filled, method: str, paper: float | None, yardstick: Filled | None) -> list[Field]:
    """The line of a cell in the grid of `details`."""
    found, hint = shade(one, yardstick) if method != "teacher" else (None, "")
    n = one.last.n if one.last else 0
    return [
        Field(one.cell.row),
        Field(method),
        Field("" if paper is None else f"{paper:.2f}"),
        Field(str(one.last) if one.last else "failed", found, hint, faint=n < 2),
        Field(str(one.best) if one.best else "", faint=n < 2),
        Field(str(one.held_out) if one.held_out else "", faint=n < 2),
        Field(str(n)),
        Field(budget(one.networks)),
        Field(logs(one)),
    ]


def failed(one: Filled) -> str:
    """How many runs of a cell failed, as text; "" if none did."""
    return f"{len(one.failures)} failed" if one.failures else ""


def logs(one: Filled) -> str:
    """Links to the metrics.jsonl of every network, each named by its seed; "" if it was given.

    Behind them stands what differs between the seeds beside the seed, and why other runs failed.
    """
    if is_given(one.networks):
        return ""
    links = ", ".join(f"[{own.seed}]({quote(own.run, safe='+')}/{METRICS})" for own in one.networks)
    reasons = ", ".join(dict.fromkeys(own.reason for own in one.failures))
    told = (links, *differing(one.networks), f"{failed(one)}: {reasons}" if reasons else "")
    return "; ".join(filter(None, told))


def differing(networks: Sequence[Network]) -> list[str]:
    """What differs between the trainings of networks of one experiment, such as "2 devices"."""
    places = [place for network in networks for place in network.environments]
    values = {
        "devices": map(records.device, places),
        "versions of JAX": (place["versions"]["jax"] for place in places),
        "revisions": (place.get("git_revision") for place in places),
        "versions of own code": (str(place.get("own_code")) for place in places),
    }
    counts = {name: len(set(own)) for name, own in values.items()}
    return [f"{count} {name}" for name, count in counts.items() if count > 1]


def budget(networks: Sequence[Network]) -> str:
    """The epochs, views and operations of the training of an experiment's networks, as text."""
    if not networks:
        return ""
    if is_given(networks):
        return "given"
    done = networks[0].protocol
    text = f"{counted(done['epochs'], 'epoch')} x {counted(done['views'], 'view')}"
    return f"{text}, {told_cost(done['teraflop'])}" if done["teraflop"] else text


def told_cost(teraflop: float) -> str:
    return f"{teraflop:,.0f} Tflop" if teraflop >= 100 else f"{teraflop:.3g} Tflop"


def score_grid(
    names: Sequence[str], filled: Iterable[Filled], results: pathlib.Path
) -> Grid | None:
    """The named scores of every cell that was run; None if there are no names or no such cells.

    The scores are means over the seeds, after the last epoch.
    """
    lines = []
    for one in filled:
        if one.networks:
            found = [measured(network, results) for network in one.networks]
            values = ([own[name] for own in found if name in own] for name in names)
            means = [significance.told(significance.summary(own)) for own in values]
            faint = len(one.networks) == 1
            texts = (one.cell.row, one.cell.column, *means)
            lines.append([Field(text, faint=faint) for text in texts])
    return Grid(("row", "method", *names), lines) if names and lines else None


def measured(network: Network, results: pathlib.Path) -> dict[str, float]:
    """A network's scores in per cent by name; of a stream, also "class_il forgetting" and so on."""
    found = {
        name: 100 * value for name, value in network.result.items() if isinstance(value, float)
    }
    if "task_il" in found:
        for (stage, score), (_, own) in continual.read(epath.Path(results / network.run)).items():
            if stage == network.stage:
                found |= {f"{score} {name}": value for name, value in own._asdict().items()}
    return found


def likelihoods(filled: Sequence[Filled]) -> Grid | None:
    """The probability of improvement of every method over every other; None if there is none."""
    scores = scores_of(filled)
    columns = list(dict.fromkeys(column for _, column in scores))
    lines, useful = [], False
    for ours in columns:
        line = [Field(ours)]
        for other in columns:
            likely = significance.improvement(scores, ours, other) if ours != other else None
            useful = useful or likely is not None
            line.append(Field("" if likely is None else chance(likely), hint=interval(likely)))
        lines.append(line)
    return Grid(("P(row beats column)", *columns), lines) if useful else None


def chance(likely: significance.Improvement) -> str:
    return f"{likely.probability:.2f}"


def interval(likely: significance.Improvement | None) -> str:
    if likely is None:
        return ""
    rows = counted(likely.rows, "row")
    return f"95 %: {likely.low:.2f} to {likely.high:.2f}, {rows}, n = {likely.n}"


# ------------------------------------------------------------ charts


def curve(network: Network, results: pathlib.Path) -> dict[float, float]:
    """Accuracy on the test or validation images in per cent, by epoch."""
    rows = read_rows(results / network.run / METRICS)
    return {
        row["epoch"]: 100 * score
        for row in rows
        if row["stage"] == network.stage
        for name, score in row.items()
        if name in ("test/top1", "validation/top1")
    }


def curve_charts(filled: Sequence[Filled], results: pathlib.Path) -> list[Chart]:
    """Charts of accuracy by epoch, one for each row of a table that has been run."""
    rows: dict[str, list[charts.Line]] = {}
    for one in filled:
        points = charts.band([curve(network, results) for network in one.networks])
        if points:
            rows.setdefault(one.cell.row, []).append(charts.Line(one.cell.column, points))
    title = "{}: accuracy by epoch, mean and range of the seeds"
    return [
        Chart(title.format(row), charts.lines(drawn, "epoch", "top-1, %"))
        for row, drawn in rows.items()
    ]


def with_error(x: float, found: Summary) -> tuple[float, float, float, float]:
    """A point (x, mean, low, high), with one standard error to both sides; none for one seed."""
    error = found.error if found.n > 1 else 0.0
    return x, found.mean, found.mean - error, found.mean + error


def axis_chart(table: Table, filled: Sequence[Filled]) -> list[Chart]:
    """A chart of accuracy by the rows' numbers; none if the rows are names."""
    columns: dict[str, list] = {}
    for one in filled:
        if table.axis and one.last:
            x = float(one.cell.row.split()[0])
            columns.setdefault(one.cell.column, []).append(with_error(x, one.last))
    drawn = [charts.Line(name, sorted(points)) for name, points in columns.items()]
    picture = charts.lines(drawn, f"{table.axis}, %", "top-1, %")
    title = f"Accuracy by {table.axis}, with standard errors"
    return [Chart(title, picture)] if picture else []


def cost_chart(filled: Sequence[Filled]) -> list[Chart]:
    """A chart of accuracy against the operations in training; none for fewer than two costs."""
    columns: dict[str, list] = {}
    for one in filled:
        operations = one.networks[0].protocol["teraflop"] if one.networks else None
        if operations and one.last:
            points = columns.setdefault(one.cell.column, [])
            points.append(with_error(operations, one.last))
    drawn = [charts.Line(name, points) for name, points in columns.items()]
    picture = charts.lines(drawn, "Tflop of training", "top-1, %", joined=False, log=True)
    title = "Accuracy against cost, with standard errors"
    costs = {x for line in drawn for x, *_ in line.points}
    return [Chart(title, picture)] if len(costs) > 1 else []


# ------------------------------------------------------------ the page


def table_parts(
    name: str, filled: Sequence[Filled], teachers: Sequence[Filled], results: pathlib.Path
) -> list[Part]:
    """The parts of the page that show one table."""
    table = plans.TABLES[name]
    ran = sum(len(one.networks) >= len(table.seeds) for one in filled)
    typed, seeds = f"`python -m experiments.launch {name}`", counted(len(table.seeds), "seed")
    state = f"{ran} of {len(filled)} cells run with {seeds} each; {typed}."
    parts: list[Part] = [Heading(table.title), Text(table.protocol), Text(state)]
    if any(one.networks or one.failures for one in filled):
        shades = SHADES.format(yardstick=table.yardstick)
        parts += [overview(table, filled), Caption(" ".join(shades.split()))]
        parts += [details(table, filled, teachers)]
        if others := score_grid(table.scores, filled, results):
            parts += [Text("Other scores of the last epoch, in per cent (n):"), others]
        if likely := likelihoods(filled):
            parts += [Text("Probability of improvement, over rows and seeds:"), likely]
        parts += axis_chart(table, filled) + curve_charts(filled, results) + cost_chart(filled)
    return [*parts, Aside("every cell, with its command", [commands(name, filled)])]


def commands(name: str, filled: Sequence[Filled]) -> Grid:
    """A line per cell, with its state and the command that fills it."""
    lines = []
    for one in filled:
        cell = one.cell
        paper = "" if cell.paper is None else f"{cell.paper:.2f}"
        typed = f'`python -m experiments.launch {name} --only "{cell.row}" "{cell.column}"`'
        state = significance.told(one.last) or ("failed" if one.failures else "not run")
        lines.append([Field(text) for text in (cell.row, cell.column, paper, state, typed)])
    return Grid(("row", "column", "paper", "ours, last (n)", "command"), lines)


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
