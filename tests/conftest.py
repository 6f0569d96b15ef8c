"""Gives tests eight virtual CPU devices, strict broadcasting, and the folder of golden values."""

import gc
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

# XLA's older routines for fused operations compile in a third of the time. They compute the same,
# up to the order of a sum. And no program here is so long that it compiles faster in many parts.
QUICKLY = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def understood(flags: str) -> str:
    """The flags if this version of XLA knows them, else ""; unknown flags would end the process."""
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    env = os.environ | {"XLA_FLAGS": flags}
    is_known = not subprocess.run(start, env=env, capture_output=True, check=False).returncode
    return flags if is_known else ""


# Processes that tests start, and those of pytest-xdist, inherit this environment.
if "SSKD_JAX_TEST_PROGRAMS" not in os.environ:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    own_flags = os.environ.get("XLA_FLAGS", ""), understood(QUICKLY)
    os.environ["XLA_FLAGS"] = " ".join((*own_flags, "--xla_force_host_platform_device_count=8"))
    # There are thousands of small programs, each of which runs once.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    # The same programs are compiled once for all processes.
    folder = tempfile.TemporaryDirectory()
    os.environ["SSKD_JAX_TEST_PROGRAMS"] = os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing programs makes a million objects that stay; by default, looking for garbage among them
# takes a tenth of the time.
gc.set_threshold(50_000)
jax.devices()  # now, before a test changes the environment for the processes that it starts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files with slow tests first, so that no process is left alone with them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Excludes the imported objects, which stay, from all later garbage collections."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Frees the compiled programs of a test file when it is done.

    They map memory, and the number of a process's mappings is limited.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def optimised() -> Iterator[None]:
    """Has steps and evaluations compiled with the options of a run."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared: golden values, CIFAR-100 and trained weights")
    return folder


@pytest.fixture(scope="session")
def official_cifar100(
    shared: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A folder with the official files of the real CIFAR-100.

    To unpack them takes ten seconds.
    """
    if not (shared / "data" / "cifar100").is_dir():
        pytest.skip("no packed CIFAR-100 in ../shared")
    folder = tmp_path_factory.mktemp("official")
    subprocess.run(
        [sys.executable, shared / "tools" / "unpack_cifar100.py", folder],
        check=True,
        capture_output=True,
    )
    return folder
