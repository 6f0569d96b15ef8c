r"""Writes the pages of results, from the records alone.

    python -m experiments.report

It writes experiments/results/README.md; report.html beside it, a single file that needs no network;
and those tables of the repository's README that stand between the lines
`<!-- table NAME -->` and `<!-- end -->`.
"""

import argparse
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from experiments import charts, page, plans, protocol, records, significance
from experiments.page import Aside, Chart, Download, Field, Grid, Heading, Part, Text
from experiments.plans import Cell, Claim
from experiments.records import DONE, Network, by_experiment, listed
from experiments.significance import NOT_RUN, NOT_SEEN, ONE_SEED, OPPOSITE, SEEN, Finding
from experiments.tables import (
    Filled,
    budget,
    counted,
    fill,
    is_given,
    logs,
    scores_of,
    table_parts,
)
from sskd_jax.engine.devices import leave_accelerators
from sskd_jax.system.console import console, fail, mistakes
from sskd_jax.system.paths import on_disk
from sskd_jax.types import UserError
from sskd_jax.workdir.files import CONFIG, read_json

README = pathlib.Path(__file__).parents[1] / "README.md"
MARKDOWN, HTML = "README.md", "report.html"
BETWEEN = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
TITLE = "Results"
ABOUT = """All figures are top-1 accuracies on the test images in per cent, as mean ± standard
deviation over n seeds. The last epoch is the result. The best epoch, picked on the test images,
stands beside it because published numbers are such; "held out" is the accuracy on the test images
of the epoch that was best on training images held out for it. Differences between methods stand
with their standard error. One seed is no result. Runs whose configs differ in the seed alone are of
one experiment, whatever they are called, and whatever code and device trained them: where these
differ, the column of the logs says so. Students of one experiment may have one teacher (the
launcher's, of seed 0) or one of every seed. Where several runs have one seed, the last by name is
shown. Minutes are those of the stages that a run trained itself.
"""


def findings(tables: Mapping[str, Sequence[Filled]]) -> list[tuple[str, Claim, Finding]]:
    """(name of the table, claim, finding) for every claim of the tables."""
    found = []
    for name, filled in tables.items():
        scores = scores_of(filled)
        for claim in plans.TABLES[name].claims:
            found.append((name, claim, significance.finding(scores, claim)))
    return found


def verdict(found: Sequence[tuple[str, Claim, Finding]], networks: Sequence[Network]) -> Text:
    """A summary of all findings and of the recorded networks, in sentences."""
    verdicts = [finding.verdict for _, _, finding in found]
    names = (SEEN, OPPOSITE, NOT_SEEN, ONE_SEED, NOT_RUN)
    told = ", ".join(f"{verdicts.count(name)} {name}" for name in names)
    sentences = [f"Of {len(found)} claims, {told}."]
    for name, claim, finding in found:
        what, *_ = claim.worse.split(",")  # "kd" or "kd, 60 epochs"
        if (claim.better, what, claim.row) == ("sskd", "kd", "") and finding.n:
            sentences.append(
                f"In “{plans.TABLES[name].title}”, SSKD is {told_difference(finding)} points "
                f"{'above' if finding.difference > 0 else 'below'} "
                f"{claim.worse.replace('kd', 'KD')} ({finding.verdict}; n = {finding.n} seeds, "
                f"{counted(finding.rows, 'pair')} of networks)."
            )
    trained = [network for network in networks if not is_given([network])]
    done = sum(network.status == DONE for network in trained)
    failed = len(trained) - done
    sentences.append(f"{counted(done, 'trained network')} recorded, {failed} failed.")
    return Text(" ".join(sentences))


def told_difference(finding: Finding) -> str:
    return f"{abs(finding.difference):.2f} ± {finding.error:.2f}"


def claims_grid(found: Sequence[tuple[str, Claim, Finding]]) -> Grid:
    """Every claim with its verdict; claims that could be tested come first."""
    rows = []
    for name, claim, finding in sorted(found, key=lambda one: not one[2].n):
        ran = finding.n > 0
        likely = finding.improvement
        chance = f"{likely.probability:.2f} [{likely.low:.2f}, {likely.high:.2f}]" if likely else ""
        difference = f"{finding.difference:+.2f} ± {finding.error:.2f}" if ran else ""
        texts = (claim.text, finding.verdict, name, difference, chance)
        counts = (str(finding.rows), str(finding.n)) if ran else ("", "")
        rows.append([Field(text, faint=not ran) for text in (*texts, *counts)])
    figures = ("difference ± standard error", "P(better) [95 %]", "rows", "n")
    return Grid(("claim", "verdict", "table", *figures), rows)


# ------------------------------------------------------------ all that was run


def environments(networks: Sequence[Network]) -> Grid:
    """A line per environment of the runs: device, versions and git revision."""
    found: dict[tuple[str, ...], dict[str, None]] = {}
    for network in networks:
        for place in network.environments:
            revision = str(place.get("git_revision"))
            key = (
                records.device(place),
                str(place.get("python")),
                place["versions"]["jax"],
                revision[:10] + " (changed)" * revision.endswith("-dirty"),
            )
            found.setdefault(key, {})[network.run] = None
    rows = [[*map(Field, key), Field(listed(runs))] for key, runs in found.items()]
    return Grid(("device", "Python", "JAX", "revision", "runs"), rows)


def everything(known: Mapping[str, Mapping[int, Network]], results: pathlib.Path) -> Grid:
    """A line per experiment that has a finished network."""
    cells = [Filled.of(Cell("", "", ""), seeds) for seeds in known.values()]
    cells = [cell for cell in cells if cell.networks]
    apart = distinctions([cell.networks[0] for cell in cells], results)
    rows = []
    for cell in cells:
        done, one = cell.networks, cell.networks[0]
        *texts, method, cost, before = outline(one)
        method = ", ".join(filter(None, (method, apart.get(one.experiment))))
        last, best = significance.told(cell.last), significance.told(cell.best or cell.held_out)
        minutes = ", ".join(f"{sum(one.minutes):.1f}" for one in done if one.minutes)
        ours = (last, best, one.protocol["selection"], minutes, logs(cell))
        line = (*texts, method, cost, before, *ours)
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


def outline(network: Network) -> tuple[str, ...]:
    """A network's data, images, architectures, method, budget, and the stages before, as text."""
    one = network.protocol
    images = " ".join(protocol.told_images(one))
    networks = " -> ".join(filter(None, (one["teacher"], one["network"])))
    return one["data"], images, networks, network.what, budget([network]), one["before"]


def distinctions(networks: Iterable[Network], results: pathlib.Path) -> dict[str, str]:
    """What tells experiments with the same outline apart, such as a rate, by experiment."""
    alike: dict[tuple[str, ...], list[Network]] = {}
    for network in networks:
        alike.setdefault(outline(network), []).append(network)
    found = {}
    for group in alike.values():
        if len(group) > 1:
            configs = [(read_json(results / one.run / CONFIG), one.stage) for one in group]
            told = protocol.told_apart(configs)
            found |= {one.experiment: text for one, text in zip(group, told, strict=True)}
    return found


def similarities(known: Mapping[str, Mapping[int, Network]]) -> list[Part]:
    """Table 6: how similar students are to their teacher, a line per experiment."""
    rows = []
    for seeds in known.values():
        looked_at = [network for network in seeds.values() if "kl" in network.similarity]
        if looked_at:
            one = looked_at[0].protocol
            values = (
                [factor * network.similarity[key] for network in looked_at]
                for key, factor in (("kl", 1), ("cka", 100), ("agreement", 100))
            )
            measured = [str(significance.summary(own)) for own in values]
            names = (one["data"], one["network"], looked_at[0].what)
            texts = (*names, *measured, str(len(looked_at)))
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
    """The pictures of an experiment, from its first seed whose similarity was measured."""
    one = next((network for network in seeds.values() if network.similarity), None)
    if one is None:
        return []
    found, what = one.similarity, f"{one.protocol['network']} {one.what}"
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


def probes(known: Mapping[str, Mapping[int, Network]]) -> list[Part]:
    """The accuracies of linear probes, a line per experiment and dataset."""
    rows = []
    for seeds in known.values():
        for data in dict.fromkeys(name for network in seeds.values() for name in network.probes):
            probed = [network for network in seeds.values() if data in network.probes]
            found = significance.summary([100 * network.probes[data] for network in probed])
            one = probed[0].protocol
            texts = (one["data"], one["network"], probed[0].what, data, significance.told(found))
            rows.append([Field(text, faint=found.n == 1) for text in texts])
    about = Text(
        "Accuracy of logistic regression on frozen features, on images that the network was not "
        "trained on, in per cent; `python -m experiments.probe WORKDIR --data=NAME`."
    )
    columns = ("trained on", "network", "method", "images", "top-1 (n)")
    return [Heading("Linear probes"), about, Grid(columns, rows) if rows else Text("Not run.")]


# ------------------------------------------------------------ the pages


def parts_of(results: pathlib.Path) -> list[Part]:
    """All parts of the page of results."""
    networks = records.recorded(results)
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
            "“Seen here” means: the lead is above two standard errors, and the 95 % interval of "
            "the probability that a run of the one beats a run of the other lies above one half; "
            "for “leads by more”, two leads differ by two standard errors. “Opposite seen” means "
            "the same of the two exchanged. With three seeds, the intervals are too narrow: of two "
            "equally good methods, one or the other is seen above in 11 of 100 cases. The claims "
            "are many, and are not corrected for that."
        ),
        claims_grid(found),
    ]
    for name in sorted(tables, key=lambda name: not any(one.networks for one in tables[name])):
        cells = of_teachers(plans.TABLES[name].cells).values()
        teachers = [fill(cell, known, of_teacher=True) for cell in cells]
        parts += table_parts(name, tables[name], teachers, results)
    return [
        *parts,
        *similarities(known),
        *probes(known),
        Heading("All that was run"),
        everything(known, results),
        Heading("Environments"),
        environments(networks),
        Download(records.INDEX, records.index(results)),
    ]


def of_teachers(cells: Iterable[Cell]) -> dict[str, Cell]:
    """A cell by row that has the row's teacher: the last one, as the first is often scratch."""
    return {cell.row: cell for cell in cells}


def readme(text: str, results: pathlib.Path) -> str:
    """The text of the repository's README, with its tables filled from the records."""
    known = by_experiment(records.recorded(results))

    def table(found: re.Match[str]) -> str:
        opening, name, end = found.groups()
        return f"{opening}{page.markdown_table(readme_grid(name, known))}\n{end}"

    return BETWEEN.sub(table, text)


def readme_grid(name: str, known: Mapping[str, Mapping[int, Network]]) -> Grid:
    """A table for the README, of teachers and cells; one with a single seed is shown as not run."""
    table, rows = plans.table(name), []
    for row, cell in of_teachers(table.cells).items():
        own = [fill(one, known) for one in table.cells if one.row == row]
        for what, one in [
            ("teacher", fill(cell, known, of_teacher=True)),
            *((one.cell.column, one) for one in own),
        ]:
            enough = one.last is not None and (one.last.n > 1 or is_given(one.networks))
            ours = (
                (significance.told(one.last), significance.told(one.best))
                if enough
                else ("not run", "")
            )
            texts = (row, what, *ours, budget(one.networks))
            rows.append([Field(text) for text in texts])
    return Grid(("networks", "method", "last epoch (n)", "best epoch (n)", "budget"), rows)


def contents(
    results: pathlib.Path, readme_file: pathlib.Path | None = None
) -> dict[pathlib.Path, str]:
    """The content that every page should have, by its path."""
    parts = parts_of(results)
    pages = {
        results / MARKDOWN: page.markdown(parts),
        results / HTML: page.page(TITLE, parts),
    }
    if readme_file:
        pages[readme_file] = readme(readme_file.read_text(encoding="utf-8"), results)
    return pages


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the pages."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--results", help="folder of other records, where their pages go")
    typed = parser.parse_args(argv).results
    leave_accelerators()
    try:
        results = on_disk(typed or records.RECORDS)
        if not results.is_dir():
            raise UserError(f"--results={results} is no folder: give one that `record` wrote")
        pages = contents(results, None if typed else README)
        for path, content in pages.items():
            path.write_text(content, encoding="utf-8")
    except mistakes() as error:
        fail(str(error))
    console.print(f"pages    {', '.join(map(str, pages))}")


if __name__ == "__main__":
    main()
