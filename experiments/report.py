r"""Writes the pages about what was run, from the records alone.

    python -m experiments.report

It writes experiments/results/README.md, report.html beside it, which is one file that needs no
network, and the tables of the repository's README that stand between the lines
`<!-- table NAME -->` and `<!-- end -->`.
"""

import argparse
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from experiments import charts, page, plans, probe, protocol, record, scores, statistics
from experiments.page import Aside, Caption, Chart, Download, Field, Grid, Heading, Part, Text
from experiments.plans import Cell, Claim, Table
from experiments.record import DONE, METRICS, Network, listed
from experiments.statistics import NOT_RUN, Finding, Scores, Summary
from sskd_jax.main import fail
from sskd_jax.system.console import console
from sskd_jax.types import UserError
from sskd_jax.workdir.files import read_rows

README = pathlib.Path(__file__).parents[1] / "README.md"
MARKDOWN, HTML = "README.md", "report.html"
BETWEEN = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
TITLE = "Results"
ABOUT = """All figures are top-1 accuracies on the test images in per cent, as mean ± standard
deviation over n seeds. The last epoch is the result. The best epoch, picked on the test images,
stands beside it because published numbers are such; "held out" is the accuracy on the test images
of the epoch that was best on training images held out for it. One seed is no result. Networks
differ in what decides them, not in the name of their run."""
SHADES = """Cells are shaded by the distance from the published number in standard errors of the
seeds (1, 2, 3 and more), best epoch against best epoch; where nothing is published, by the distance
of the last epoch from that of the column {yardstick}."""


class Filled(NamedTuple):
    """A cell of a table with what is recorded of it, one network per seed."""

    cell: Cell
    networks: Sequence[Network]
    failures: Sequence[Network] = ()

    def scores(self, pick: Callable[[Network], float | None]) -> list[float]:
        """In per cent, of those networks that have this score."""
        return [100 * score for one in self.networks if (score := pick(one)) is not None]

    @property
    def last(self) -> Summary | None:
        return statistics.summary(self.scores(lambda network: network.last))

    @property
    def best(self) -> Summary | None:
        return statistics.summary(self.scores(lambda network: network.best))

    @property
    def held_out(self) -> Summary | None:
        return statistics.summary(self.scores(lambda network: network.held_out))


def by_experiment(networks: Iterable[Network]) -> dict[str, dict[int, Network]]:
    """Networks by experiment and seed; what is done goes before what failed."""
    found: dict[str, dict[int, Network]] = {}
    for network in sorted(networks, key=lambda one: one.status == DONE):
        found.setdefault(network.experiment, {})[network.seed] = network
    return found


def fill(
    cell: Cell, known: Mapping[str, Mapping[int, Network]], of_teacher: bool = False
) -> Filled:
    """A cell, or its teacher, if it has one, with its records."""
    config = protocol.as_json(protocol.load(cell.config, cell.changes))
    if of_teacher and "teacher" not in config:
        return Filled(cell, ())
    stage = "teacher" if of_teacher else protocol.last_stage(config)
    own = known.get(protocol.identify(config, stage), {})
    done = [network for _, network in sorted(own.items()) if network.status == DONE]
    return Filled(cell, done, [network for network in own.values() if network.status != DONE])


def scores_of(filled: Iterable[Filled]) -> Scores:
    """The last epochs by row and column."""
    return {
        (one.cell.row, one.cell.column): one.scores(lambda network: network.last)
        for one in filled
        if one.networks
    }


# ------------------------------------------------------------ claims


def findings(tables: Mapping[str, Sequence[Filled]]) -> list[tuple[str, Claim, Finding]]:
    """(name of the table, claim, what became of it) of every claim."""
    found = []
    for name, filled in tables.items():
        scores = scores_of(filled)
        for claim in plans.TABLES[name].claims:
            found.append((name, claim, statistics.finding(scores, claim)))
    return found


def verdict(found: Sequence[tuple[str, Claim, Finding]], networks: Sequence[Network]) -> Text:
    """What all of it comes to, in sentences."""
    counts = statistics.counted(finding.verdict for _, _, finding in found)
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    sentences = [f"Of {len(found)} claims, {told}."]
    for name, claim, finding in found:
        if (claim.better, claim.worse, claim.row) == ("sskd", "kd", "") and finding.n:
            sentences.append(
                f"In “{plans.TABLES[name].title}”, SSKD is {told_difference(finding)} points "
                f"{'above' if finding.difference > 0 else 'below'} KD (n = {finding.n} seeds, "
                f"{counted(finding.rows, 'pair')} of networks)."
            )
    done = sum(network.status == DONE for network in networks)
    failed = len(networks) - done
    sentences.append(f"{counted(done, 'network')} recorded, {failed} failed.")
    return Text(" ".join(sentences))


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def told_difference(finding: Finding) -> str:
    return f"{abs(finding.difference):.2f} ± {finding.error:.2f}"


def claims_grid(found: Sequence[tuple[str, Claim, Finding]]) -> Grid:
    """Every claim with its verdict, those first of which something was run."""
    rows = []
    for name, claim, finding in sorted(found, key=lambda one: one[2].verdict == NOT_RUN):
        ran = finding.verdict != NOT_RUN
        likely = finding.improvement
        chance = f"{likely.probability:.2f} [{likely.low:.2f}, {likely.high:.2f}]" if likely else ""
        difference = f"{finding.difference:+.2f} ± {finding.error:.2f}" if ran else ""
        texts = (claim.text, finding.verdict, name, difference, chance)
        counts = (str(finding.rows), str(finding.n)) if ran else ("", "")
        rows.append([Field(text, faint=not ran) for text in (*texts, *counts)])
    columns = ("claim", "verdict", "table", "difference", "P(better) [95 %]", "rows", "n")
    return Grid(columns, rows)


# ------------------------------------------------------------ a table


def shade(one: Filled, yardstick: Filled | None) -> tuple[int | None, str]:
    """(shade of a cell, what it says in words)."""
    if one.cell.paper is not None:
        other, ours, what = one.cell.paper, one.best, "the published number"
    elif yardstick is not None and yardstick.cell is not one.cell:
        other, ours, what = yardstick.last, one.last, yardstick.cell.column
    else:
        return None, ""
    distance = statistics.distance(ours, other)
    if distance is None:
        return None, ""
    steps = min(3, int(abs(distance)))
    side = "above" if distance > 0 else "below"
    return steps if distance > 0 else -steps, f"{abs(distance):.1f} standard errors {side} {what}"


def told(found: Summary | None) -> str:
    return "" if found is None else f"{found} ({found.n})"


def overview(table: Table, filled: Sequence[Filled]) -> Grid:
    """Rows by columns, last epochs."""
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
    return Field(told(one.last), found, hint, faint=one.last.n == 1 or is_few)


def details(table: Table, filled: Sequence[Filled], teachers: Sequence[Filled]) -> Grid:
    """A line per cell that was run: paper, ours, budget and logs; the teachers first."""
    places = {(one.cell.row, one.cell.column): one for one in filled}
    lines = [detail(one, "teacher", None, None) for one in teachers if one.networks]
    for one in filled:
        if one.networks or one.failures:
            yardstick = places.get((one.cell.row, table.yardstick))
            lines.append(detail(one, one.cell.column, one.cell.paper, yardstick))
    columns = ("row", "method", "paper", "ours, last", "ours, best", "held out", "n", "budget")
    return Grid((*columns, "log of seed"), lines)


def detail(one: Filled, method: str, paper: float | None, yardstick: Filled | None) -> list[Field]:
    """The line of a cell."""
    reason = one.failures[0].reason if one.failures else ""
    found, hint = shade(one, yardstick) if method != "teacher" else (None, "")
    n = one.last.n if one.last else 0
    return [
        Field(one.cell.row),
        Field(method),
        Field("" if paper is None else f"{paper:.2f}"),
        Field(str(one.last) if one.last else "failed", found, hint or reason, faint=n < 2),
        Field(str(one.best) if one.best else "", faint=n < 2),
        Field(str(one.held_out) if one.held_out else "", faint=n < 2),
        Field(str(n)),
        Field(budget(one.networks)),
        Field(logs(one.networks) or reason),
    ]


def logs(networks: Sequence[Network]) -> str:
    """Links to the rows of the epochs, by seed."""
    return ", ".join(f"[{one.seed}]({one.run}/{METRICS})" for one in networks)


def budget(networks: Sequence[Network]) -> str:
    """What a network was trained with: epochs, views and operations."""
    if not networks:
        return ""
    done = networks[0].protocol
    if done["epochs"] == "given":
        return "given"
    text = f"{counted(done['epochs'], 'epoch')} x {counted(done['views'], 'view')}"
    return f"{text}, {told_cost(done['teraflop'])}" if done["teraflop"] else text


def told_cost(teraflop: float) -> str:
    return f"{teraflop:,.0f} Tflop" if teraflop >= 100 else f"{teraflop:.3g} Tflop"


def likelihoods(filled: Sequence[Filled]) -> Grid | None:
    """The probability of improvement of every method over every other; None of fewer than two."""
    scores = scores_of(filled)
    columns = list(dict.fromkeys(column for _, column in scores))
    lines, useful = [], False
    for ours in columns:
        line = [Field(ours)]
        for other in columns:
            likely = statistics.improvement(scores, ours, other) if ours != other else None
            useful = useful or likely is not None
            line.append(Field("" if likely is None else chance(likely), hint=interval(likely)))
        lines.append(line)
    return Grid(("P(row beats column)", *columns), lines) if useful else None


def chance(likely: statistics.Improvement) -> str:
    return f"{likely.probability:.2f}"


def interval(likely: statistics.Improvement | None) -> str:
    if likely is None:
        return ""
    rows = counted(likely.rows, "row")
    return f"95 %: {likely.low:.2f} to {likely.high:.2f}, {rows}, n = {likely.n}"


# ------------------------------------------------------------ charts


def curve(network: Network, results: pathlib.Path) -> dict[float, float]:
    """Held-out accuracy in per cent by epoch."""
    rows = read_rows(results / network.run / METRICS)
    return {
        row["epoch"]: 100 * score
        for row in rows
        if row["stage"] == network.stage
        for name, score in row.items()
        if name in ("test/top1", "validation/top1")
    }


def curve_charts(filled: Sequence[Filled], results: pathlib.Path) -> list[Chart]:
    """Accuracy by epoch, a chart per row of a table that has been run."""
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
    """A point with a standard error to both sides; with none of one seed."""
    error = found.error if found.n > 1 else 0.0
    return x, found.mean, found.mean - error, found.mean + error


def axis_chart(table: Table, filled: Sequence[Filled]) -> list[Chart]:
    """Accuracy by what the rows are numbers of."""
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
    """Accuracy against the operations of the networks in training."""
    columns: dict[str, list] = {}
    for one in filled:
        operations = one.networks[0].protocol["teraflop"] if one.networks else None
        if operations and one.last:
            points = columns.setdefault(one.cell.column, [])
            points.append(with_error(operations, one.last))
    drawn = [charts.Line(name, points) for name, points in columns.items()]
    picture = charts.lines(drawn, "Tflop of training", "top-1, %", joined=False, log=True)
    title = "Accuracy against cost, with standard errors"
    return [Chart(title, picture)] if len(drawn) > 1 else []


# ------------------------------------------------------------ the page


def table_parts(
    name: str, filled: Sequence[Filled], teachers: Sequence[Filled], results: pathlib.Path
) -> list[Part]:
    """All about a table."""
    table = plans.TABLES[name]
    ran = sum(bool(one.networks) for one in filled)
    typed = f"`python -m experiments.launch {name}`"
    state = f"{ran} of {len(filled)} cells run, {len(table.seeds)} seeds each; {typed}."
    parts: list[Part] = [Heading(table.title), Text(table.protocol), Text(state)]
    if ran or any(one.failures for one in filled):
        shades = SHADES.format(yardstick=table.yardstick)
        parts += [overview(table, filled), Caption(" ".join(shades.split()))]
        parts += [details(table, filled, teachers)]
        cells = [(*one.cell[:2], one.networks) for one in filled]
        if others := scores.grid(table.scores, cells, results):
            parts += [Text("Other scores of the last epoch, in per cent (n):"), others]
        if likely := likelihoods(filled):
            parts += [Text("Probability of improvement, over rows and seeds:"), likely]
        parts += axis_chart(table, filled) + curve_charts(filled, results) + cost_chart(filled)
    return [*parts, Aside("every cell, with its command", [commands(name, filled)])]


def commands(name: str, filled: Sequence[Filled]) -> Grid:
    """What fills each cell."""
    lines = []
    for one in filled:
        cell = one.cell
        paper = "" if cell.paper is None else f"{cell.paper:.2f}"
        typed = f'`python -m experiments.launch {name} --only "{cell.row}" "{cell.column}"`'
        state = told(one.last) or ("failed" if one.failures else "not run")
        lines.append([Field(text) for text in (cell.row, cell.column, paper, state, typed)])
    return Grid(("row", "column", "paper", "ours, last (n)", "command"), lines)


def environments(networks: Sequence[Network]) -> Grid:
    """What the runs were in."""
    found: dict[tuple[str, ...], dict[str, None]] = {}
    for network in networks:
        for place in network.environments:
            revision = str(place.get("git_revision"))
            key = (
                record.device(place),
                str(place.get("python")),
                place["versions"]["jax"],
                revision[:10] + " (changed)" * revision.endswith("-dirty"),
            )
            found.setdefault(key, {})[network.run] = None
    rows = [[*map(Field, key), Field(listed(runs))] for key, runs in found.items()]
    return Grid(("device", "Python", "JAX", "revision", "runs"), rows)


def everything(known: Mapping[str, Mapping[int, Network]]) -> Grid:
    """A line per experiment that has a record."""
    rows = []
    for seeds in known.values():
        done = [network for _, network in sorted(seeds.items()) if network.status == DONE]
        if not done:
            continue
        one, cell = done[0].protocol, Filled(Cell("", "", ""), done)
        images = " ".join(
            f"{key} {one[key]:g}"
            for key, usual in protocol.STAGE["images"].items()
            if one[key] != usual
        )
        networks = " -> ".join(filter(None, (one["teacher"], one["network"])))
        texts = (one["data"], images, networks, " ".join((one["method"], one["changes"])).strip())
        ours = (told(cell.last), told(cell.best or cell.held_out), one["selection"])
        minutes = [f"{sum(network.minutes):.1f}" for network in done if network.minutes]
        line = (*texts, budget(done), one["before"], *ours, ", ".join(minutes), logs(done))
        rows.append([Field(text, faint=len(done) == 1) for text in line])
    columns = (
        "data",
        "images",
        "networks",
        "method",
        "budget",
        "before",
        "last (n)",
        "best (n)",
        "best on",
        "minutes",
        "log of seed",
    )
    return Grid(columns, rows)


def similarities(known: Mapping[str, Mapping[int, Network]]) -> list[Part]:
    """Table 6: how similar students are to their teacher, a line per experiment."""
    rows = []
    for seeds in known.values():
        looked_at = [network for _, network in sorted(seeds.items()) if "kl" in network.similarity]
        if looked_at:
            one = looked_at[0].protocol
            measured = [
                str(statistics.summary([factor * network.similarity[key] for network in looked_at]))
                for key, factor in (("kl", 1), ("cka", 100), ("agreement", 100))
            ]
            what = " ".join((one["method"], one["changes"])).strip()
            texts = (one["data"], one["network"], what, *measured, str(len(looked_at)))
            rows.append([Field(text, faint=len(looked_at) == 1) for text in texts])
    columns = ("data", "student", "method", "KL", "CKA, %", "same class, %", "n")
    about = Text(
        "On the test images: divergence of the student's predictions from the teacher's, linear "
        "CKA of the embeddings, and how often both find the same class; "
        "`python -m experiments.similarity WORKDIR`."
    )
    heading = Heading("Table 6: similarity of teacher and student")
    pictures = [part for seeds in known.values() for part in pictured(seeds)]
    aside = [Aside("pictures of them", pictures)] if pictures else []
    return [heading, about, Grid(columns, rows) if rows else Text("Not run."), *aside]


def pictured(seeds: Mapping[int, Network]) -> list[Chart]:
    """The pictures of an experiment, of its first seed that was looked at."""
    looked_at = [network for _, network in sorted(seeds.items()) if network.similarity]
    if not looked_at:
        return []
    found, one = looked_at[0].similarity, looked_at[0].protocol
    what = " ".join(filter(None, (one["network"], one["method"], one["changes"])))
    classes: dict[int, list] = {}
    for (x, y), label in zip(found["tsne"]["place"], found["tsne"]["label"], strict=True):
        classes.setdefault(label, []).append((x, y, y, y))
    drawn = [charts.Line(f"class {label}", points) for label, points in classes.items()]
    title = f"{what}: embeddings of test images, t-SNE"
    parts = [Chart(title, charts.lines(drawn, "t-SNE", "", joined=False))]
    if "rotations" in found:
        title = (
            f"{what}: how similar rotated images (rows, three per image) are found to normal ones "
            "(columns, the row's own framed); rows that the student does not imitate are crossed"
        )
        parts.append(Chart(title, charts.matrices(**found["rotations"])))
    return parts


def parts_of(results: pathlib.Path) -> list[Part]:
    """The whole page."""
    networks = record.recorded(results)
    known = by_experiment(networks)
    tables = {
        name: [fill(cell, known) for cell in table.cells] for name, table in plans.TABLES.items()
    }
    found = findings(tables)
    parts: list[Part] = [
        Heading(TITLE, 1),
        verdict(found, networks),
        Text(" ".join(ABOUT.split())),
        Heading("Claims"),
        Text(
            "“Seen here” means: the 95 % interval of the probability that a run of the one beats a "
            "run of the other lies above one half; where a lead is to be larger, that it is so by "
            "two standard errors."
        ),
        claims_grid(found),
    ]
    for name in sorted(tables, key=lambda name: not any(one.networks for one in tables[name])):
        cells = {one.cell.row: one.cell for one in tables[name]}
        teachers = [fill(cell, known, of_teacher=True) for cell in cells.values()]
        parts += table_parts(name, tables[name], teachers, results)
    return [
        *parts,
        *similarities(known),
        *probe.parts(known),
        Heading("All that was run"),
        everything(known),
        Heading("Environments"),
        environments(networks),
        Download(record.INDEX, record.index(results)),
    ]


def readme(text: str, results: pathlib.Path) -> str:
    """The repository's README with its tables as the records have them."""
    known = by_experiment(record.recorded(results))

    def table(found: re.Match[str]) -> str:
        opening, name, end = found.groups()
        return f"{opening}{page.markdown_table(readme_grid(name, known))}\n{end}"

    return BETWEEN.sub(table, text)


def readme_grid(name: str, known: Mapping[str, Mapping[int, Network]]) -> Grid:
    """A table for the README: teachers, and every cell; one seed is shown as none."""
    table, rows = plans.table(name), []
    first = {cell.row: cell for cell in table.cells}
    for row, cell in first.items():
        own = [fill(one, known) for one in table.cells if one.row == row]
        for what, one in [
            ("teacher", fill(cell, known, of_teacher=True)),
            *((one.cell.column, one) for one in own),
        ]:
            is_given = one.networks and one.networks[0].protocol["epochs"] == "given"
            enough = one.last is not None and (one.last.n > 1 or is_given)
            ours = (told(one.last), told(one.best)) if enough else ("not run", "")
            texts = (row, what, *ours, budget(one.networks))
            rows.append([Field(text) for text in texts])
    return Grid(("networks", "method", "last epoch (n)", "best epoch (n)", "budget"), rows)


def write(results: pathlib.Path = record.RESULTS, readme_file: pathlib.Path = README) -> None:
    """Writes all pages."""
    for path, content in contents(results, readme_file).items():
        path.write_text(content, encoding="utf-8")


def contents(results: pathlib.Path, readme_file: pathlib.Path) -> dict[pathlib.Path, str]:
    """What every page should hold."""
    parts = parts_of(results)
    return {
        results / MARKDOWN: page.markdown(parts),
        results / HTML: page.page(TITLE, parts),
        readme_file: readme(readme_file.read_text(encoding="utf-8"), results),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the pages."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description=__doc__.splitlines()[0]
    )
    parser.parse_args(argv)
    protocol.leave_accelerators()
    try:
        write()
    except (UserError, OSError) as error:
        fail(str(error))
    console.print(f"pages    {record.RESULTS / MARKDOWN}, {record.RESULTS / HTML}, {README}")


if __name__ == "__main__":
    main()
