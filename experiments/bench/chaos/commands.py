"""The targets of --commands: export, record, and prepare for two kinds of datasets."""

import hashlib
import os
import pathlib
import pickle
import shutil
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.bench.chaos.moments import Target
from experiments.bench.chaos.runs import State, differences, in_a_copy, run_module, train
from sskd_jax.exchange.export import FORMATS
from sskd_jax.system import early

RUN, RECORDS, DATA = "run", "results", "data"  # folders of a target
PASSING = (".lock", ".preparing")  # files that are no part of a command's result


def contents(folder: pathlib.Path) -> State:
    """A hash of every file below a folder, and "" for every empty folder, by path in the folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.name not in PASSING]
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file()
    }
    empty = [path for path in paths if path.is_dir() and not any(path.iterdir())]
    return files | {str(path.relative_to(folder)): "" for path in empty}


def halves(
    before: State, folder: pathlib.Path, expected: State, hidden: tuple[str, ...] = (".",)
) -> list[str]:
    """The names of files that look complete, but have neither their first nor their last content.

    Args:
      before: the contents of the folder before the command.
      folder: where the command was stopped.
      expected: the contents of the folder after the whole command.
      hidden: how the names of temporary files and folders begin, which nobody takes for complete.
    """
    now = contents(folder)
    return [
        name
        for name in differences(now, expected)
        if now.get(name)  # neither missing nor an empty folder
        and now[name] != before.get(name)
        and not any(part.startswith(hidden) for part in pathlib.Path(name).parts)
    ]


def targets(flags: Sequence[str], folder: pathlib.Path) -> Iterator[Target]:
    """Yields the commands to attack, on a run with these flags and on small sources of images."""
    ready = folder / "ready"
    ended = in_a_copy(lambda: train(flags, ready / RUN))
    if ended.code:
        sys.exit(f"error: the run does not come to its end: {ended.printed}")
    write_cifar(ready / "cifar-100-python")
    write_images(ready / "images")
    for kind in FORMATS:
        yield export(ready, kind)
    yield record(ready)
    yield prepare(ready, "prepare cifar100", "cifar100", "--source=cifar-100-python")
    yield prepare(ready, "prepare imagefolder", "imagefolder", "--source=images", "--name=flowers")


def export(ready: pathlib.Path, kind: str) -> Target:
    """The target that exports the student of a finished run, in a format of `FORMATS`."""
    before = contents(ready / RUN)

    def run(place: pathlib.Path) -> None:
        run_module("sskd_jax", "export", str(place / RUN), f"--format={kind}")

    return Target(
        name=f"export {kind}",
        prepare=lambda place: shutil.copytree(ready / RUN, place / RUN),
        run=run,
        ending=lambda place: contents(place / RUN),
        halves=lambda place, expected: halves(before, place / RUN, expected),
    )


def record(ready: pathlib.Path) -> Target:
    """The target that records two runs next to one that was recorded before."""

    def prepare(place: pathlib.Path) -> None:
        for name in ("first", "second", "third"):
            shutil.copytree(ready / RUN, place / name)
        keep(place, "first")

    def keep(place: pathlib.Path, *names: str) -> None:
        from experiments import record

        record.keep_runs([place / name for name in names], place / RECORDS)

    def run(place: pathlib.Path) -> None:
        early.catch_signals()
        keep(place, "second", "third")

    return Target(
        name="record",
        prepare=lambda place: in_a_copy(lambda: prepare(place)),
        run=run,
        ending=lambda place: contents(place / RECORDS),
    )


def prepare(ready: pathlib.Path, name: str, *arguments: str) -> Target:
    """The target that prepares a dataset from files."""

    def run(place: pathlib.Path) -> None:
        os.chdir(ready)
        run_module("sskd_jax", "prepare", *arguments, f"--data_dir={place / DATA}")

    return Target(
        name=name,
        prepare=lambda place: None,
        run=run,
        ending=lambda place: contents(place / DATA),
        halves=lambda place, expected: halves(
            {}, place / DATA, expected, hidden=(".", "incomplete.")
        ),
    )


def write_cifar(folder: pathlib.Path) -> None:
    """Writes files like the official ones of CIFAR-100, with a few random images."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 30), ("test", 12)):
        content = {
            b"data": rng.integers(0, 256, (count, 3072), np.uint8),
            b"fine_labels": rng.integers(0, 100, count).tolist(),
            b"coarse_labels": rng.integers(0, 20, count).tolist(),
        }
        (folder / name).write_bytes(as_official(content))
    names = {
        b"fine_label_names": [b"fine %d" % i for i in range(100)],
        b"coarse_label_names": [b"coarse %d" % i for i in range(20)],
    }
    (folder / "meta").write_bytes(as_official(names))


def as_official(content: dict[bytes, object]) -> bytes:
    """A pickle as by Python 2 and its numpy: numpy's old module names, and bytes for text."""
    pickled = pickle.dumps(content, protocol=3).replace(b"numpy._core.", b"numpy.core.")
    return pickled.replace(b"X\x02\0\0\0u1", b"T\x02\0\0\0u1")  # the name of a dtype


def write_images(folder: pathlib.Path) -> None:
    """Writes random images to train/CLASS/IMAGE and val/CLASS/IMAGE."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("daisy", "rose"):
            (folder / split / name).mkdir(parents=True)
            for i in range(3):
                image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
                image.save(folder / split / name / f"{i}.png")
