"""A workdir of several seeds, which contains the workdir of every seed: seed-0, seed-1, ..."""

from etils import epath

from sskd_jax.types import UserError
from sskd_jax.workdir.files import CONFIG, ENVIRONMENTS, STAGE, read_json

PREFIX = "seed-"


def folder_of(workdir: epath.Path, seed: int) -> epath.Path:
    return workdir / f"{PREFIX}{seed}"


def folders(workdir: epath.Path) -> list[epath.Path]:
    """The workdirs of the seeds in a workdir, by number; none if it is the workdir of one run."""
    numbers = [path.name.removeprefix(PREFIX) for path in workdir.glob(f"{PREFIX}*")]
    return [folder_of(workdir, seed) for seed in sorted(map(int, filter(str.isdecimal, numbers)))]


def check_run(workdir: epath.Path) -> None:
    """Raises a `UserError` if a path is not the workdir of one run.

    It may be absent, a stage of a run, or the workdir of several seeds.
    """
    if not workdir.exists():
        raise UserError(f"there is no {workdir}")
    for run in workdir.parents[:2]:
        if (workdir / STAGE).exists() and (run / CONFIG).exists():
            stage = workdir.relative_to(run)
            raise UserError(f"{workdir} is a stage of a run: give {run}, and --stage={stage}")
    check_one(workdir)


def check_one(workdir: epath.Path) -> None:
    """Raises a `UserError` if a workdir has several seeds, where that of one run is needed."""
    if found := folders(workdir):
        raise UserError(f"{workdir} holds several seeds: give one of them, such as {found[0]}")


def is_run(folder: epath.Path) -> bool:
    """Whether a folder is the workdir of one run, not just one with another file of that name."""
    return (folder / CONFIG).exists() and (folder / ENVIRONMENTS).exists()


def check_free(workdir: epath.Path, several: bool) -> None:
    """Raises a `UserError` if a workdir has one run, and several seeds are to be trained there.

    Likewise for the reverse, and if it lies in another run's workdir, or another run's lies in it:
    a method's folder would be taken for a run of its name.
    """
    for run in workdir.parents[:2]:
        if is_run(run):
            raise UserError(f"{workdir} lies in {run}, which is a run itself: give another place")
    for config in workdir.glob(f"*/{CONFIG}"):
        if is_run(config.parent) and not config.parent.name.startswith(PREFIX):
            raise UserError(
                f"{workdir} holds another run, {config.parent}: give another place, such as "
                f"{workdir / 'new'}"
            )
    if several and (workdir / CONFIG).exists():
        seed = read_json(workdir / CONFIG)["seed"]
        raise UserError(
            f"{workdir} holds a run of one seed: give --config.seeds=1 to go on with it, or move "
            f"it to NEW/{PREFIX}{seed} and give --workdir=NEW"
        )
    if not several and (found := folders(workdir)):
        raise UserError(
            f"{workdir} holds several seeds: give --workdir={found[0]} to go on with one of them, "
            "or another --workdir"
        )
