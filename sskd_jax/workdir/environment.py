"""The environment of a run, which a reported figure depends on: versions, devices, own code."""

import contextlib
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from sskd_jax.system.precision import compute_dtype
from sskd_jax.workdir.files import Row

LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow-datasets",
    "clu",
)
PACKAGE = pathlib.Path(__file__).parents[1]

UNKNOWN = {  # replaces an environment whose record was lost
    "platform": "unknown",
    "devices": ["unknown"],
    "versions": dict.fromkeys(LIBRARIES, "unknown"),
}


def environment(devices: Sequence[jax.Device], config: Mapping[str, Any]) -> Row:
    """Versions, devices, dtype, command, git revision, and the `own_code` that the config names."""
    dtype = compute_dtype(config.get("dtype", "auto"), devices[0])
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "processor": processor(),
        "platform": devices[0].platform,
        "devices": [device.device_kind for device in devices],
        "dtype": jax.numpy.dtype(dtype).name,
        "cores": os.cpu_count(),
        "git_revision": git_revision(),
        "command": sys.orig_argv[1:],
    } | ({"own_code": own} if (own := own_code(config)) else {})


def own_code(config: Mapping[str, Any]) -> dict[str, str]:
    """Checksums of the modules of a user's that a config names, as in "my_code:Net", by module."""
    found: dict[str, str] = {}
    for value in config.values():
        if isinstance(value, Mapping):
            found |= own_code(value)
        elif isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value):
            module = value.partition(":")[0]
            if file := file_of(module):
                found[module] = f"{zlib.crc32(file.read_bytes()):08x}"
    return found


def changed_code(before: Row, here: Row) -> list[str]:
    """The modules of a user's whose content differs between two environments that both have it."""
    own, earlier = (where.get("own_code", {}) for where in (here, before))
    return [name for name in own if own[name] != earlier.get(name, own[name])]


def changed_versions(before: Row, here: Row) -> list[str]:
    """What else differs between two environments that may change the rounding, in words."""
    old, new = (
        {key: where.get(key) for key in ("python", "processor", "cores")} | where["versions"]
        for where in (before, here)
    )
    return [
        f"{name} {new[name]} in place of {old[name]}"
        for name in new
        if None not in (old.get(name), new[name]) and old[name] != new[name]
    ]


def file_of(module: str) -> pathlib.Path | None:
    """The file of a module; None if there is none, which is an error only where it is used."""
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(module)
        if spec and spec.has_location:
            return pathlib.Path(spec.origin)
    return None


def version(library: str) -> str | None:
    """The version of a library; None if it is not installed or states no version."""
    found = importlib.metadata.distributions(name=library)
    # A folder called *.dist-info, left empty by a broken installation, has no version.
    return next((text for one in found if (text := one.metadata.get("Version"))), None)


def processor() -> str:
    """The name of this machine's processor, as far as the system gives it."""
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text()
        if found := re.search(r"^model name\s*: (.*)$", text, re.MULTILINE):
            return found[1]
    return platform.processor()


def git_revision() -> str | None:
    """The git revision of this package; None if it is not in a clone, or git is not installed.

    It ends with "-dirty" if files of the package differ from the revision. Other files are
    ignored: the config is recorded separately, and records of runs are outside the package.
    """

    def git(*command: str) -> str:
        command = ("git", "-C", str(PACKAGE), *command)
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    with contextlib.suppress(OSError):
        changes = git("status", "--porcelain", ".")
        return git("rev-parse", "HEAD") + "-dirty" * bool(changes) or None
