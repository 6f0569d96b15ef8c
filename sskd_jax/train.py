"""The story of a run: its methods, their stages in order, results."""

from collections.abc import Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

from sskd_jax import settings
from sskd_jax.data.sources import Split
from sskd_jax.data.stream import Stream
from sskd_jax.engine.devices import chief, enough_memory, forget_programs, keep_programs
from sskd_jax.engine.loop import Job, Session, Trained, measure, run_stage
from sskd_jax.plan import Row, described, load, parameters, plan, supply, up_to
from sskd_jax.system.console import console
from sskd_jax.system.interruption import Interruption
from sskd_jax.system.paths import locate
from sskd_jax.system.quiet import silence_checkpoint_errors
from sskd_jax.types import Params, UserError
from sskd_jax.workdir import report, seeds
from sskd_jax.workdir.checkpoint import checksum
from sskd_jax.workdir.logbook import Logbook, NoLogbook
from sskd_jax.workdir.stages import check_formats, load_stage


def run(config: ConfigDict, workdir: str, devices: Sequence[jax.Device] | None = None) -> list[Row]:
    """Trains what the config asks for, or goes on where it stopped.

    Several seeds are runs one after the other, each with a workdir of its own in the given one.

    Returns the rows of the final table, those of all seeds.

    Raises:
      UserError: whatever the user can mend, before anything is trained where it can be known.
      Stopped: a signal or `config.time_limit` ended it; the same call goes on.
    """
    keep_programs()
    silence_checkpoint_errors()
    devices, folder = list(devices or jax.devices()), locate(workdir)
    console.quiet = not chief()
    runs = by_seed(config, folder)
    several = jax.process_count() > 1
    with enough_memory(), Interruption(config.time_limit, deferring=several) as interruption:
        rows = [row for own in runs for row in run_seed(*own, devices, interruption)]
        if len(runs) > 1 and chief():
            report.show(folder)
    return rows


def by_seed(config: ConfigDict, folder: epath.Path) -> list[tuple[ConfigDict, epath.Path]]:
    """(config, workdir) of every seed, once all are found fit.

    Raises:
      UserError: a config is not, or the folder has one run where several are to be, or the other
        way.
    """
    settings.check(config)
    seeds.check_free(folder, config.seeds > 1)
    if config.seeds == 1:
        return [(config, folder)]
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
    """Trains with one seed, in a workdir of its own."""
    recipes, loaded = settings.check(config), load(config, devices)
    check_formats(folder)
    with Logbook(folder, config.to_dict(), devices) if chief() else NoLogbook() as book:
        session = Session(folder, devices, book, interruption, config.save_seconds)
        jobs = up_to(config.until, plan(loaded, recipes))
        report.announce(devices, loaded.data, loaded.train.size, map(described, jobs))
        rows = results(train_all(jobs, session), loaded.data.test, session)
        if chief():
            report.finish(book, rows)
    return rows


def train_all(jobs: Sequence[Job], session: Session) -> list[tuple[Job, Trained]]:
    """Every stage in turn, each from what those before it left."""
    for job in jobs:
        if job.checkpoint:  # that it is not there is told before anything is trained
            load_given(job)
    finished: dict[str, Params] = {}
    done = []
    for planned in jobs:
        job = supply(planned, finished)
        if job.checkpoint:
            trained = Trained(load_given(job), best=None, best_epoch=None)
        else:
            trained = run_stage(job, session)
            forget_programs()
        finished[job.name] = trained.last
        done.append((job, trained))
    return done


def load_given(job: Job) -> Params:
    """{"params", "batch_stats"} by net, of another run's stage, or of a network from PyTorch.

    Raises:
      UserError: there is none, or it does not suit this run.
    """
    path, learned = locate(job.checkpoint), list(job.sketch.state.params)
    if path.is_dir():
        about = {key: value for key, value in job.about.items() if key not in ("image", "steps")}
        return load_stage(path, job.name, about)
    if not all(comes_as_weights(job, net) for net in learned):
        raise UserError(f"{path} is no workdir: the stage {job.kind} comes from a run of ours")
    check_beside(job, path)
    return {net: load_net(job, path, net) for net in learned}


def comes_as_weights(job: Job, net: str) -> bool:
    """Whether it is the network that the stage is called after, or the branches of one."""
    module = job.task.stage.nets[net].module  # not its architecture, which may be "my.code:Net"
    is_part = isinstance(module, str) and "." in module
    return is_part or net == job.kind and net in job.networks


def load_net(job: Job, path: epath.Path, net: str) -> Params:
    """{"params", "batch_stats"} of a network, or of its branches, from a file of PyTorch's."""
    from sskd_jax.exchange import torch_bridge

    weights, num_classes = torch_bridge.load_weights(path, job.networks[net])
    if num_classes != job.task.num_classes:
        raise UserError(
            f"{path} tells {num_classes} classes apart, and the dataset has "
            f"{job.task.num_classes}: give a {job.kind} of this dataset"
        )
    return weights


def check_beside(job: Job, path: epath.Path) -> None:
    """Refuses branches that stand beside another network in their file than in this run.

    Whose weights this run has is known once the stage is supplied.
    """
    for net in job.sketch.state.params:
        network, _, part = job.task.stage.nets[net].module.partition(".")
        ours = job.about.get(f"{network}_weights")
        if part and ours and ours != f"{checksum(load_net(job, path, network)):08x}":
            raise UserError(
                f"{path} holds branches of another {network} than this run has: give "
                f"--config.{network}.checkpoint={path}, too"
            )


def results(
    done: Sequence[tuple[Job, Trained]], test: Split | Stream, session: Session
) -> list[Row]:
    """A row for every network that a stage makes, and for every other stage that scores top1."""
    makers = [
        (job, trained)
        for job, trained in done
        if job.kind in job.networks or "top1" in job.task.scores
    ]
    return [row for job, trained in makers for row in result_rows(job, trained, test, session)]


def result_rows(job: Job, trained: Trained, test: Split | Stream, session: Session) -> list[Row]:
    """The scores behind the last epoch, and the first of them behind the best one, by network."""
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
    """The scores of the network that a stage is called after, and of other networks in it, by net.

    A score of another one begins with its name: those of the net "peer" are peer_top1 and so on.
    """
    found: dict[str, dict[str, float]] = {job.kind: {}}
    for name, value in scores.items():
        net, _, score = name.partition("_")
        if net in job.networks:
            found.setdefault(net, {})[score] = value
        else:
            found[job.kind][name] = value
    return found
