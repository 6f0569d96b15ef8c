"""A whole run: its methods, their stages in order, and the results."""

from collections.abc import Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

from sskd_jax import settings
from sskd_jax.data.sources import Split
from sskd_jax.data.stream import Stream
from sskd_jax.engine.devices import (
    all_devices,
    chief,
    enough_memory,
    forget_programs,
    keep_programs,
)
from sskd_jax.engine.loop import Job, Session, Trained, is_begun, measure, run_stage
from sskd_jax.exchange.given import (
    Start,
    as_trained,
    check_earlier,
    load_given,
    load_start,
    started,
)
from sskd_jax.plan import described, load, parameters, plan, supply, up_to
from sskd_jax.sections import optics_of
from sskd_jax.system.console import console
from sskd_jax.system.interruption import Interruption
from sskd_jax.system.paths import locate
from sskd_jax.system.quiet import silence_checkpoint_errors
from sskd_jax.types import Params
from sskd_jax.workdir import report, seeds
from sskd_jax.workdir.files import Row
from sskd_jax.workdir.logbook import Logbook, NoLogbook, as_stored, begun, check_config
from sskd_jax.workdir.stages import check_formats


def run(config: ConfigDict, workdir: str, devices: Sequence[jax.Device] | None = None) -> list[Row]:
    """Trains what the config describes, or resumes it where it stopped.

    Several seeds are trained one after the other, each with its own workdir in the given one.

    Returns the rows of the final table; with several seeds those of all, each with its `seed`.

    Raises:
      UserError: a mistake that the user can correct; raised before training where possible.
      Stopped: a signal or `config.time_limit` ended the run; the same call resumes it.
    """
    keep_programs()
    silence_checkpoint_errors()
    devices, folder = list(devices or all_devices()), locate(workdir)
    console.quiet = not chief()
    runs = by_seed(config, folder)
    several = jax.process_count() > 1
    with enough_memory(), Interruption(config.time_limit, deferring=several) as interruption:
        rows = []
        for own, place in runs:
            found = run_seed(own, place, devices, interruption)
            rows += [{"seed": own.seed} | row for row in found] if len(runs) > 1 else found
        if len(runs) > 1 and chief():
            report.show(folder)
    return rows


def by_seed(config: ConfigDict, folder: epath.Path) -> list[tuple[ConfigDict, epath.Path]]:
    """(config, workdir) of every seed, after all configs are checked.

    Raises:
      UserError: a config is invalid, or the folder has the run of one seed and several are wanted,
        or the reverse, or seeds of another config.
    """
    known = config_as_trained(config, settings.check(config))
    seeds.check_free(folder, config.seeds > 1)
    if config.seeds == 1:
        return [(config, folder)]
    for place in seeds.folders(folder):
        if stored := begun(place):
            check_config(place, stored, as_stored(known) | {"seed": stored["seed"]})
    runs = []
    for seed in range(config.seed, config.seed + config.seeds):
        own = config.copy_and_resolve_references()
        own.update(seed=seed, seeds=1)
        settings.check(own)
        runs.append((own, seeds.folder_of(folder, seed)))
    return runs


def run_seed(
    config: ConfigDict, folder: epath.Path, devices: list[jax.Device], interruption: Interruption
) -> list[Row]:
    """Trains with one seed, in its workdir; returns the rows of its results."""
    recipes, loaded = settings.check(config), load(config, devices)
    check_formats(folder)
    known = config_as_trained(config, recipes)
    jobs = up_to(config.until, plan(loaded, recipes))  # before anything is written
    with Logbook(folder, known, devices) if chief() else NoLogbook() as book:
        session = Session(folder, devices, book, interruption, config.save_seconds)
        optics = optics_of(config.data)
        report.announce(devices, loaded.data, loaded.train.size, optics, map(described, jobs))
        rows = results(train_all(jobs, session), loaded.data.test, session)
        if chief():
            report.finish(book, rows)
    return rows


def config_as_trained(config: ConfigDict, recipes: Sequence[settings.Recipe]) -> Row:
    """The config to store, which says of each stage how it was trained; see `as_trained`."""
    return as_trained(config.to_dict(), {kind for recipe in recipes for kind in recipe.method})


def train_all(jobs: Sequence[Job], session: Session) -> list[tuple[Job, Trained]]:
    """Trains or loads every stage in turn, with the variables that the earlier ones left."""
    starts: dict[str, Start] = {}
    new = {job.name for job in jobs if not (job.checkpoint or is_begun(job, session))}
    for job in jobs:  # so that a file which does not fit is reported before anything is trained
        if job.checkpoint:
            load_given(job)
            check_earlier(job, new)
        elif job.start_from and job.name in new:
            starts[job.name] = load_start(job)
            console.print(f"{job.name}  {starts[job.name].line}")
    finished: dict[str, Params] = {}
    done = []
    for planned in jobs:
        job = supply(planned, finished)
        if job.checkpoint:
            trained = Trained(load_given(job), best=None, best_epoch=None)
        else:
            trained = run_stage(started(job, starts.get(job.name)), session)
            forget_programs()
        finished[job.name] = trained.last
        done.append((job, trained))
    return done


def results(
    done: Sequence[tuple[Job, Trained]], test: Split | Stream, session: Session
) -> list[Row]:
    """The rows of every stage that produces the network of its name, or has a score top1."""
    makers = [
        (job, trained)
        for job, trained in done
        if job.kind in job.networks or "top1" in job.task.scores
    ]
    return [row for job, trained in makers for row in result_rows(job, trained, test, session)]


def result_rows(job: Job, trained: Trained, test: Split | Stream, session: Session) -> list[Row]:
    """A row per network: its scores after the last epoch, and the first after the best epoch."""
    states = [trained.last, trained.best] if trained.best else [trained.last]
    last, *best = [scores_by_net(job, scores) for scores in measure(job, states, test, session)]
    rows = []
    for net, scores in last.items():
        row = {"stage": job.name} if net == job.kind else {"stage": job.name, "net": net}
        made = [net] if net in job.networks else []
        models = {job.networks[name]: None for name in made or job.networks}  # each once
        row["network"] = ", ".join(models)
        row["parameters"] = parameters(job, *made)
        row |= scores | job.remarks
        if best and scores:
            first = next(iter(scores))
            row |= {f"best_{first}": best[0][net][first], "best_epoch": trained.best_epoch}
        rows.append(row)
    return rows


def scores_by_net(job: Job, scores: dict[str, float]) -> dict[str, dict[str, float]]:
    """The scores of a stage by net: of the net with the stage's name, and of other networks in it.

    A score of another network begins with its name: those of the net "peer" are peer_top1 etc.
    """
    own = job.networks.keys() & job.sketch.state.params.keys()  # a frozen one is another stage's
    found: dict[str, dict[str, float]] = {job.kind: {}}
    for name, value in scores.items():
        named = [f"{net}_" for net in own if name.startswith(f"{net}_")]
        prefix = max(named, key=len, default="")
        net = prefix.removesuffix("_") or job.kind
        found.setdefault(net, {})[name.removeprefix(prefix)] = value
    return found
