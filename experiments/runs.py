"""The runs that fill a table: what each one trains, which other runs it needs, and its state."""

import ast
import functools
import pathlib
import re
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import plans, protocol, records
from sskd_jax import settings
from sskd_jax.system.paths import take_lock
from sskd_jax.types import UserError, choose
from sskd_jax.workdir.files import METRICS, RESULTS, Row, read_rows
from sskd_jax.workdir.logbook import LOCK

SHARED = ("teacher", "head")  # stages that are the same for all students of a teacher
# Prefixes of the config keys of a method's numbers on which its head depends, not just its student.
OF_THE_HEAD = ("method.head", "method.transformation", "method.task", "method.exemplars")
DECIDED = ("seed", "seeds", "until", "methods")  # config keys that cells and this file set
DONE, FAILED, RUNNING, LEFT = records.DONE, records.FAILED, "running", "left"
UNNEEDED = "not needed"


class Run(NamedTuple):
    """A run, which has a workdir of its own.

    Attributes:
      name: of the workdir and of the record.
      label: of the run in the printed table of states.
      stage: that produces its network, such as "sskd/student".
      config: the value of --config=.
      changes: the changed values, by config key.
      needs: names of the runs whose trained networks it loads.
      told: the protocol of its network, see experiments/protocol.py; empty for a head.
      is_shared: whether it trains only a teacher or a head, for other runs.
    """

    name: str
    label: str
    stage: str
    config: str
    changes: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    told: Mapping[str, Any] = {}
    is_shared: bool = False

    def command(self) -> list[str]:
        """The arguments with which `python` starts the run, except --workdir."""
        changes = [f"--config.{key}={value}" for key, value in self.changes.items()]
        return ["-m", "sskd_jax.main", f"--config={self.config}", *changes]


class Place(NamedTuple):
    """The folders of the runs and their records, as absolute paths.

    Attributes:
      workdirs: the folder of the workdirs.
      results: the folder of the records.
      weights: the folder of the weights files of teachers that were trained elsewhere.
    """

    workdirs: pathlib.Path
    results: pathlib.Path
    weights: pathlib.Path


# ------------------------------------------------------------ which runs there are


@functools.cache
def keys_of(config: str) -> dict[str, None]:
    """The keys of the config that --config= names."""
    return dict.fromkeys(protocol.keys_of(protocol.load(config, {})))


def check_typed(typed: Mapping[str, Any], cells: Iterable[plans.Cell]) -> None:
    """Raises a `UserError` if a key in `typed` is in no cell's config, or is not to be typed."""
    known = {key: None for cell in cells for key in keys_of(cell.config)} if typed else {}
    for key in typed:
        choose(known, key, "config key")
        if key in DECIDED:
            raise UserError(f"--config.{key} is decided by this command: give --seeds or --only")


def runs_of(
    cells: Iterable[plans.Cell], seeds: Iterable[int], typed: Mapping[str, Any], place: Place
) -> dict[str, Run]:
    """All runs for some cells and seeds, by name; each run comes after those that it needs.

    All cells of one seed come before the next seed. Of the values in `typed`, a run gets those
    whose keys its config has.

    Raises:
      UserError: a value is not allowed.
    """
    cells = list(cells)
    found: dict[str, Run] = {}
    for seed in seeds:
        for cell in cells:
            own = keys_of(cell.config)
            given = {key: value for key, value in typed.items() if key in own}
            for run in runs_of_cell(cell, {**cell.changes, **given, "seed": seed}, place):
                found.setdefault(run.name, run)
    return found


def runs_of_cell(cell: plans.Cell, changes: Mapping[str, Any], place: Place) -> Iterator[Run]:
    """Yields the runs for a cell and a seed: of the teacher and head, if needed, and its own."""
    loaded = protocol.load(cell.config, changes)
    settings.check(loaded)
    config = protocol.as_json(loaded)
    stage = protocol.last_stage(config)
    _, _, stages = protocol.recipe(config, stage)
    checkpoints: dict[str, str] = {}
    needs: list[str] = []
    for kind in SHARED:
        given = changes.get(f"{kind}.checkpoint")
        if given:
            checkpoints[f"{kind}.checkpoint"] = str(place.weights / given)
        elif kind in stages:
            is_own = not stages[kind].shared
            run = shared_run(cell.config, changes, kind, config["teacher"]["model"], is_own)
            yield run._replace(changes=run.changes | checkpoints, needs=tuple(needs))
            checkpoints[f"{kind}.checkpoint"] = str(place.workdirs / run.name)
            checkpoints[f"{kind}.start_from"] = ""  # that was where its own training began
            needs.append(run.name)
    told = protocol.describe(config, stage)
    parts = told["method"], told["teacher"], told["network"], told["experiment"], changes["seed"]
    yield Run(
        name="-".join(str(part) for part in parts if part != ""),
        label=f"{cell.row}, {cell.column}",
        stage=stage,
        config=cell.config,
        changes={**changes, **checkpoints},
        needs=tuple(needs),
        told=told,
    )


def shared_run(config: str, changes: Mapping[str, Any], kind: str, model: str, is_own: bool) -> Run:
    """The run that trains a teacher, or its head, for all students that can share it.

    One teacher serves all seeds, as in the paper; every seed has its own head. A teacher that
    belongs to a method (`is_own`, as heads do), such as HSAKD's joint one, serves only that method.
    """
    path, _, arguments = config.partition(":")
    kept = [part for part in arguments.split(",") if not part.startswith("student=")]
    sections = ("data", "dtype", "seed", "seeds", *SHARED[: SHARED.index(kind) + 1])
    own = {
        key: value
        for key, value in changes.items()
        if key.partition(".")[0] in (*sections, "methods") or kind == "head" and is_of_the_head(key)
    }
    if kind == "teacher":
        own["seed"] = 0
        if not is_own:  # such a teacher does not depend on the method
            kept = ["method=kd" if part.startswith("method=") else part for part in kept]
            own |= {"methods": ("kd",)} if "methods" in own else {}
    config = ":".join(filter(None, [path, ",".join(kept)]))
    decides = {key: value for key, value in own.items() if key not in ("seed", "data.data_dir")}
    name = f"{kind}-{model}-{protocol.checksum([config, decides])}-{own['seed']}"
    loaded = protocol.as_json(protocol.load(config, own))
    *folder, _ = protocol.last_stage(loaded).split("/")
    stage = "/".join([*folder, kind]) if is_own else kind
    changes = own | {"until": kind}
    run = Run(name, f"{kind} {model}", stage, config, changes, is_shared=True)
    if kind != "teacher":
        return run
    # Without "experiment", so that `states_of` ignores its record: students need the teacher's
    # weights, which only its workdir has.
    told = protocol.describe(loaded, stage)
    return run._replace(told={key: value for key, value in told.items() if key != "experiment"})


def is_of_the_head(key: str) -> bool:
    """Whether a key is a number that heads are trained by, also of a method in a comparison."""
    return re.sub(r"^settings\.[^.]+\.", "", key).startswith(OF_THE_HEAD)


def typed_changes(typed: Iterable[str]) -> Row:
    """The values of arguments --config.KEY=VALUE, by key.

    Raises:
      UserError: an argument has another form.
    """
    found = {}
    for text in typed:
        key, equals, value = text.removeprefix("--config.").partition("=")
        if not equals or not text.startswith("--config."):
            raise UserError(
                f"{text!r} is no flag of this command, which --help lists; a key of the config is "
                "written --config.KEY=VALUE"
            )
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found


def chosen(cells: Sequence[plans.Cell], only: Sequence[str]) -> list[plans.Cell]:
    """The cells in the rows and columns that `only` names.

    If it names no row, they are in all rows; if it names no column, in all columns.

    Raises:
      UserError: a word is neither a row nor a column, or no row has any of the columns.
    """
    rows, columns = (dict.fromkeys(cell[axis] for cell in cells) for axis in (0, 1))
    for word in only:
        choose(columns | rows, word, "row or column")
    rows, columns = (names & set(only) or set(names) for names in (rows.keys(), columns.keys()))
    found = [cell for cell in cells if cell.row in rows and cell.column in columns]
    if not found:
        raise UserError(
            f"--only {' '.join(only)}: these rows have none of these columns, so leave one kind out"
        )
    return found


def seen_images(run: Run) -> float:
    """A run's cost in epochs, by its config alone: machines may count operations differently."""
    epochs = run.told["epochs"]
    return run.told["views"] * run.told["share"] * (epochs if isinstance(epochs, int) else 1)


def shard(runs: Mapping[str, Run], text: str) -> dict[str, Run]:
    """The i-th of n parts of the cells' runs, for the text "i/n", with the runs that they need.

    The students of the parts see about as many images, each as often as it has views.
    """
    part, _, count = text.partition("/")
    if not (part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count)):
        raise UserError(f"--shard={text}: write 1/4 for the first of four parts")
    cost = {name: seen_images(run) for name, run in runs.items() if not run.is_shared}
    shares: list[list[str]] = [[] for _ in range(int(count))]
    loads = [0.0] * int(count)
    for name in sorted(cost, key=cost.__getitem__, reverse=True):
        lightest = loads.index(min(loads))
        shares[lightest].append(name)
        loads[lightest] += cost[name]
    own = shares[int(part) - 1]
    names = {*own, *(need for name in own for need in runs[name].needs)}
    return {name: run for name, run in runs.items() if name in names}


# ------------------------------------------------------------ their states


def states_of(runs: Mapping[str, Run], place: Place, again: Collection[str] = ()) -> dict[str, str]:
    """The state of every run, by name: `DONE`, `FAILED`, `RUNNING`, `LEFT` or `UNNEEDED`.

    A record of the same experiment and seed decides, wherever its run was trained, but not for
    the runs in `again`. A run of a teacher or a head is done if it has results, and otherwise not
    needed if no run that is left needs it.
    """
    known = records.by_experiment(records.recorded(place.results))
    states: dict[str, str] = {}
    for name, run in runs.items():
        kept = known.get(run.told.get("experiment"), {}).get(run.changes["seed"])
        if kept and name not in again:
            states[name] = kept.status
        else:
            states[name] = RUNNING if is_locked(place.workdirs / name) else LEFT
    left = [run for name, run in runs.items() if not run.is_shared and states[name] == LEFT]
    needed = {name for run in left for name in run.needs}
    for name, run in runs.items():
        if run.is_shared and (place.workdirs / name / RESULTS).exists():
            states[name] = DONE
        elif run.is_shared and name not in needed:
            states[name] = UNNEEDED
    return states


def is_locked(workdir: pathlib.Path) -> bool:
    """Whether a process trains in a workdir."""
    if not (workdir / LOCK).exists():
        return False
    with open(workdir / LOCK, "a") as file:
        return not take_lock(file)


def rate(run: Run, networks: Iterable[records.Network]) -> float | None:
    """The expected pace of a run in 10**12 operations per hour; None if no record is similar.

    It is the median of those records of the same dataset that agree most in network and method.
    """
    known: dict[int, list[float]] = {}
    for network in networks:
        done, spent = network.protocol, sum(network.minutes)
        if done["teraflop"] and spent and done["data"] == run.told["data"]:
            likeness = sum(done[key] == run.told[key] for key in ("network", "method"))
            known.setdefault(likeness, []).append(60 * done["teraflop"] / spent)
    return statistics.median(known[max(known)]) if known else None


def hours(run: Run, networks: Sequence[records.Network], workdir: pathlib.Path) -> float | None:
    """The estimated hours until a run finishes, from the pace of the records; None if unknown."""
    operations = run.told.get("teraflop")
    pace = operations and rate(run, networks)
    return (1 - done_share(run, workdir)) * operations / pace if pace else None


def done_share(run: Run, workdir: pathlib.Path) -> float:
    """The share of its network's epochs that an unfinished run has trained."""
    file = workdir / METRICS
    epochs = run.told.get("epochs")
    if not file.exists() or not isinstance(epochs, int):
        return 0.0
    return sum(row["stage"] == run.stage for row in read_rows(file)) / epochs
