"""The folders of stages on the disk: their descriptions (stage.json), and finished stages."""

from collections.abc import Iterator
from typing import Any

from etils import epath

from sskd_jax.types import UserError
from sskd_jax.workdir.checkpoint import has_checkpoints, read_newest
from sskd_jax.workdir.files import STAGE, read_json, write_json
from sskd_jax.workdir.seeds import check_one

FORMAT = 2  # the version of the checkpoints' format: a state holds its nets by name
# What may be unknown: earlier versions did not write it, and a copied dataset may lack its origin.
UNKNOWN = ("dataset", "origin", "images", "classes")


def kind_of(stage: str) -> str:
    """The last part of a stage's name: student for sskd/student."""
    return stage.rpartition("/")[2]


def stage_folders(workdir: epath.Path) -> Iterator[epath.Path]:
    """Yields the stages' folders in a workdir: WORKDIR/STAGE, and WORKDIR/METHOD/STAGE."""
    for pattern in (f"*/{STAGE}", f"*/*/{STAGE}"):
        yield from (file.parent for file in workdir.glob(pattern))


def describe(folder: epath.Path, about: dict[str, Any]) -> None:
    """Writes stage.json, the description of a folder's checkpoints, unless both exist already.

    Args:
      folder: of the stage; it is made if it is absent.
      about: what the checkpoints depend on, such as the network, as JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not has_checkpoints(folder) or not (folder / STAGE).exists():
        write_json(folder / STAGE, {"format": FORMAT} | about)


def description(folder: epath.Path) -> dict[str, Any]:
    """A folder's stage.json; a `UserError` if this version can't read its checkpoints."""
    written = read_json(folder / STAGE)
    check_format(folder, written)
    return written


def check_description(folder: epath.Path, about: dict[str, Any], advice: str) -> None:
    """Checks that `about` is a part of a folder's stage.json.

    Args:
      folder: of the stage.
      about: what its checkpoints must belong to.
      advice: the end of the error message, which says what to do.

    Raises:
      UserError: the checkpoints belong to something else, or this version can't read them.
    """
    compare(folder, description(folder), about, advice)


def compare(path: epath.Path, written: dict[str, Any], about: dict[str, Any], advice: str) -> None:
    """Raises a `UserError` if `about` is no part of what is written of the weights in a path."""
    for key, value in about.items():
        if differs(written, key, value):
            told, now = first_difference(written.get(key), value)
            raise UserError(
                f"{path} was trained with {key} {told}, and this run has {now}: {advice}"
            )


def differs(written: dict[str, Any], key: str, value: Any) -> bool:
    """Whether a description has another value for a key, or none where it is always known."""
    before = written.get(key)
    return before != value and (key not in UNKNOWN or bool(before and value))


def first_difference(before: Any, now: Any) -> tuple[Any, Any]:
    """Both values; of lists of one length, the first entries that differ, with their place."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = zip(before, now, strict=True)
        return next((f"{a} (number {i})", b) for i, (a, b) in enumerate(pairs) if a != b)
    return before, now


def check_format(folder: epath.Path, written: dict[str, Any]) -> None:
    """Raises a `UserError` if `written`, a folder's stage.json, names another `FORMAT`."""
    if written.get("format") != FORMAT:
        raise UserError(
            f"{folder} was trained by another version of sskd_jax, whose checkpoints this one "
            "does not read: train it again in another --workdir, or go on with the git_revision "
            "that environments.json names"
        )


def check_formats(workdir: epath.Path) -> None:
    """Raises a `UserError` if a stage of a workdir has checkpoints of another `FORMAT`."""
    for folder in stage_folders(workdir):
        description(folder)


def load_stage(path: epath.Path, name: str, about: dict[str, Any]) -> dict[str, Any]:
    """The last {"params", "batch_stats"} of every net of the stage that `find_stage` finds, by net.

    Raises:
      UserError: as `find_stage`, or the stage is not finished.
    """
    return load_folder(find_stage(path, name, about))


def find_stage(path: epath.Path, name: str, about: dict[str, Any]) -> epath.Path:
    """The folder of a stage.

    If there are several of this kind, it takes the first that fits, beginning with the one of this
    name.

    Args:
      path: the workdir, or the folder of the stage itself.
      name: of the stage, such as "teacher" or "sskd/head"; its last part is the kind.
      about: what its checkpoints must belong to.

    Raises:
      UserError: there is no such stage, or it belongs to something else.
    """
    folders = candidates(path, name)
    folder = next((folder for folder in folders if fits(folder, about)), folders[0])
    kind = kind_of(name)
    advice = (
        f"give the config that it was trained with, or another {kind}; for methods that want "
        "different ones, a workdir that holds them all"
    )
    check_description(folder, about, advice)
    return folder


def candidates(path: epath.Path, name: str) -> list[epath.Path]:
    """The folders in a workdir of stages of this kind, the one of exactly this name first.

    `path` and `name` are as in `find_stage`.

    Raises:
      UserError: there are none.
    """
    check_one(path)
    kind = kind_of(name)
    found = dict.fromkeys((path, path / name, path / kind, *sorted(path.glob(f"*/{kind}"))))
    folders = [folder for folder in found if (folder / STAGE).exists()]
    if not folders:
        raise UserError(f"{path} holds no {kind}: give a workdir of a run that trained one")
    return folders


def load_folder(folder: epath.Path) -> dict[str, Any]:
    """The last {"params", "batch_stats"} of every net of the finished stage in a folder, by net.

    Raises:
      UserError: it is not finished, or this version can't read it.
    """
    steps = description(folder)["steps"]
    state = read_newest(folder)
    done = int(state["step"]) if state else 0
    if done != steps:
        raise UserError(f"{folder} is at step {done} of {steps}: finish that run first")
    return nets_in(state)


def nets_in(state: dict[str, Any]) -> dict[str, Any]:
    """{"params", "batch_stats"} of every net in a stored state, by net."""
    return {
        net: {"params": params, "batch_stats": state["batch_stats"].get(net, {})}
        for net, params in state["params"].items()
    }


def fits(folder: epath.Path, about: dict[str, Any]) -> bool:
    """Whether `about` is a part of a folder's stage.json."""
    written = read_json(folder / STAGE)
    return not any(differs(written, key, value) for key, value in about.items())
