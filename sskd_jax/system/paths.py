"""Paths on disks and in buckets (gs://), which etils reads and writes."""

import contextlib
import fcntl
import os
import pathlib
import re
import stat
import tempfile
from typing import IO, Any

from etils import epath

from sskd_jax.system.quiet import import_tensorflow
from sskd_jax.types import UserError


def cache_folder() -> pathlib.Path:
    """The folder where programs and indices are cached for later runs.

    A user without a home folder, as in many containers, gets a private temporary folder.
    """
    try:
        folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        return folder / "sskd_jax"
    except RuntimeError:  # neither HOME nor an entry in /etc/passwd
        folder = pathlib.Path(tempfile.gettempdir()) / f"sskd_jax-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat(follow_symlinks=False)
        if found.st_uid == os.getuid() and stat.filemode(found.st_mode) == "drwx------":
            return folder
    except OSError:
        pass
    return pathlib.Path(tempfile.mkdtemp(prefix="sskd_jax-"))


CACHE = cache_folder()


def locate(path: str | os.PathLike[str]) -> epath.Path:
    """The absolute path, with `~` as the home folder.

    Raises:
      UserError: the name is not UTF-8, which the libraries that write checkpoints insist on, or is
        an address from which no file can be read.
    """
    try:
        found = epath.Path(path).expanduser()
    except KeyError as error:  # etils knows no such scheme
        raise UserError(
            f"{path} cannot be read from there: download it and give its path, or give one that "
            "begins with gs://"
        ) from error
    try:
        os.path.abspath(found).encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(found).decode(errors="backslashreplace")
        raise UserError(
            f"the name {name} is not UTF-8: rename it, or set PYTHONUTF8=1 where the terminal is "
            "not UTF-8"
        ) from error
    if is_remote(found):
        import_tensorflow()  # before etils does, and without the GPU
        return found
    return epath.Path(os.path.abspath(found))


def check_no_pattern(path: str | os.PathLike[str]) -> None:
    """Raises a `UserError` if orbax would take a path for a glob pattern."""
    if found := re.search(r"[*?[]", str(path)):
        raise UserError(
            f"{path} has a {found[0]} in it, with which no checkpoint can be read: give a path "
            "without * ? ["
        )


def is_remote(path: str | os.PathLike[str]) -> bool:
    return "://" in str(path)


def on_disk(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a folder that has to be on a disk; a `UserError` if it is in a bucket."""
    if is_remote(path):
        raise UserError(f"{path} is in a bucket: give a folder on a disk")
    return pathlib.Path(os.path.expanduser(path))  # which leaves ~name if nobody is called so


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Replaces a file's content atomically: no reader sees, and no power cut leaves, a part."""
    if is_remote(path):  # in a bucket, a file appears only when it is complete
        path.write_bytes(content)
        return
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def check_same(descriptor: int, path: pathlib.Path | epath.Path, folder: epath.Path) -> None:
    """Raises a `UserError` if `path`, in `folder`, is not what was opened any more."""
    # While that is open, nothing else gets its inode number.
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return
    raise UserError(
        f"{folder} was deleted or replaced while this run trained in it, so it stops here: start "
        "it again with another --workdir"
    )


def take_lock(file: IO[Any]) -> bool:
    """Takes the lock of an open file; it ends when the file is closed or the process ends.

    Returns False if another process holds it. On a file system without locks it returns True.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
