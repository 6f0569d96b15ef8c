"""Paths on disks and in buckets (gs://), which etils reads and writes through TensorFlow."""

import os
import pathlib
from collections.abc import Iterator

from etils import epath

from sskd_jax.system.quiet import import_tensorflow

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sskd_jax"


def locate(path: str | os.PathLike[str]) -> epath.Path:
    """The whole path; `~` is the home folder."""
    found = epath.Path(path).expanduser()
    if is_remote(found):
        import_tensorflow()  # before etils does, and without the GPU
        return found
    return epath.Path(os.path.abspath(found))


def is_remote(path: str | os.PathLike[str]) -> bool:
    return "://" in str(path)


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Replaces the file in one go, so that it is never there in part. In a bucket, files are written so anyway."""
    if is_remote(path):
        path.write_bytes(content)
        return
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def stage_folders(workdir: epath.Path) -> Iterator[epath.Path]:
    """The folders of the stages in a workdir: its own, and one deeper where there are several methods."""
    for pattern in ("*/stage.json", "*/*/stage.json"):
        yield from (file.parent for file in workdir.glob(pattern))
