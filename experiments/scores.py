"""What is measured beside top-1 accuracy: by classes' frequency, and on streams of tasks."""

import pathlib
from collections.abc import Iterable, Sequence

from etils import epath

from experiments import continual, statistics
from experiments.page import Field, Grid
from experiments.record import Network

Cells = Iterable[tuple[str, str, Sequence[Network]]]


def measured(network: Network, results: pathlib.Path) -> dict[str, float]:
    """In per cent, by name: of its result, and of a stream "class_il forgetting" and so on."""
    found = {
        name: 100 * value for name, value in network.result.items() if isinstance(value, float)
    }
    if "task_il" in found:
        for (stage, score), (_, own) in continual.read(epath.Path(results / network.run)).items():
            if stage == network.stage:
                found |= {f"{score} {name}": value for name, value in own._asdict().items()}
    return found


def grid(names: Sequence[str], cells: Cells, results: pathlib.Path) -> Grid | None:
    """The named scores of every cell (row, column, networks) that was run; None if none was.

    They are means over the seeds, of the last epoch.
    """
    lines = []
    for row, column, networks in cells:
        if networks:
            scores = [measured(network, results) for network in networks]
            values = ([one[name] for one in scores if name in one] for name in names)
            texts = [statistics.told(statistics.summary(own)) for own in values]
            faint = len(networks) == 1
            lines.append([Field(text, faint=faint) for text in (row, column, *texts)])
    return Grid(("row", "method", *names), lines) if names and lines else None
