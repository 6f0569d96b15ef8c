"""Starts runs as commands, in one process or in two that share the work."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from sskd_jax.workdir.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[1]


def environment(devices: int) -> dict[str, str]:
    """This environment, with so many virtual devices, and the tests' modules on PYTHONPATH."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    return os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path}


def start(workdir: Path, devices: int, *flags: str, **variables: str) -> subprocess.Popen:
    env = environment(devices) | variables
    command = [sys.executable, "-m", "sskd_jax.main", f"--workdir={workdir}", *flags]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def start_two(workdir: Path, *flags: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        start(
            workdir,
            2,
            *flags,
            "--distributed",
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]


def ends(*processes: subprocess.Popen) -> list[tuple[int, str]]:
    """Waits for processes; returns (exit code, last line on stderr) of each."""
    complaints = [process.communicate(timeout=300)[1] for process in processes]
    return [
        (process.returncode, (text.splitlines() or [""])[-1])
        for process, text in zip(processes, complaints, strict=True)
    ]


def states(workdir: Path, *stages: str) -> list:
    """The newest state in the checkpoints of every stage."""
    found = []
    for stage in stages:
        with Checkpoints(workdir / stage) as checkpoints:
            found.append(checkpoints.newest())
    return found
