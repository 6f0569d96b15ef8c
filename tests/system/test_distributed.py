"""Two processes with two devices each, on this machine, through a stop and two deaths.

They end with the numbers of one process with four devices.
"""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from processes import ROOT, ends, start, start_two, states

from sskd_jax.system import distributed
from sskd_jax.system.interruption import StoppedHere
from sskd_jax.types import UserError

SMALL = (
    "--config=configs/quickstart.py",
    "--config.methods=('sskd',)",
    "--config.teacher.model=toys:Small",
    "--config.student.model=toys:Small",
    "--config.seeds=1",
    *(
        f"--config.{name}.{key}"
        for name in ("teacher", "head", "student")
        for key in (
            "epochs=4",
            "milestones=(0.5,)",
            "batch_size=32",
            "images.share=0.054",
            "learning_rate=0.01",
        )
    ),
)
STAGES = ("teacher", "sskd/head", "sskd/student")


def wait_for(processes: list[subprocess.Popen], folder: Path) -> None:
    """Until there is a checkpoint in a folder."""
    while not any(path.name.isdecimal() for path in folder.glob("*")):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    workdir = tmp_path / "two"
    two = start_two(workdir, *SMALL)
    wait_for(two, workdir / "teacher")
    two[1].send_signal(signal.SIGTERM)  # to the one that writes nothing
    for code, line in ends(*two):
        assert code == distributed.GO_ON
        assert line.startswith("stopped: ") and "the same command goes on from there" in line

    two = start_two(workdir, *SMALL)
    wait_for(two, workdir / "sskd/head")
    two[0].kill()  # the one that writes, and through which the others find each other
    (killed, _), (code, line) = ends(*two)
    assert killed == -signal.SIGKILL and code == distributed.GO_ON
    assert line.startswith(distributed.LOST)

    two = start_two(workdir, *SMALL)
    wait_for(two, workdir / "sskd/student")
    two[1].kill()
    (code, line), (killed, _) = ends(*two)
    assert killed == -signal.SIGKILL and code == distributed.GO_ON
    assert line.startswith(distributed.LOST)

    assert [code for code, _ in ends(*start_two(workdir, *SMALL))] == [0, 0]
    one = tmp_path / "one"
    assert ends(start(one, 4, *SMALL)) == [(0, "")]
    for ours, theirs in zip(states(workdir, *STAGES), states(one, *STAGES), strict=True):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), ours, theirs)
    assert epochs(workdir) == epochs(one)
    assert {name for name, _ in epochs(workdir)} == set(STAGES)


def epochs(workdir: Path) -> list[tuple[str, int]]:
    """The stage and the epoch of every row, in order."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(row["stage"], row["epoch"]) for row in rows]


def test_a_mistake_ends_all_processes(tmp_path):
    two = start_two(tmp_path / "file" / "run", *SMALL)
    (tmp_path / "file").touch()
    (code, line), (other, complaint) = ends(*two)
    assert code == distributed.FAULT and line.startswith("error: cannot write to --workdir=")
    assert max(code, other) == code  # as srun returns the highest
    assert other == distributed.GO_ON and complaint.startswith(distributed.LOST)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, (None, None, None)),
        (
            {"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"},
            ("host:1", 4, 0),
        ),
    ],
)
def test_what_the_environment_says(variables, found):
    assert distributed.arguments(variables) == dict(
        zip(("coordinator_address", "num_processes", "process_id"), found, strict=True)
    )


def test_a_number_that_is_none_is_told():
    with pytest.raises(
        UserError,
        match="JAX_PROCESS_ID is 'first', not a whole number: set JAX_COORDINATOR_ADDRESS",
    ):
        distributed.arguments({"JAX_PROCESS_ID": "first"})


@pytest.mark.parametrize(
    ("processes", "text", "lost"),
    [
        (2, "UNKNOWN: Gloo all-reduce failed: Connection closed by peer", True),
        (2, "RESOURCE_EXHAUSTED: Out of memory allocating 4096 bytes", False),
        (1, "INTERNAL: the GPU fell off the bus", False),
    ],
)
def test_whose_fault_an_error_is(monkeypatch, processes, text, lost):
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    assert distributed.may_be_lost(jax.errors.JaxRuntimeError(text)) == lost


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(28, "No space left on device"), distributed.FAULT, "error: [Errno 28] No space"),
        (jax.errors.JaxRuntimeError("INTERNAL: lost"), distributed.GO_ON, distributed.LOST),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: wrong"), distributed.FAULT, None),
        (StoppedHere("SIGTERM"), distributed.GO_ON, "stopped: SIGTERM"),
    ],
)
def test_how_an_error_ends_the_process(monkeypatch, capfd, error, code, line):
    monkeypatch.setattr(distributed, "join", lambda: None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended, distributed.membership():
        raise error
    assert ended.value.code == code
    printed = capfd.readouterr().err
    assert printed.startswith(line or "Traceback")


def test_nobody_to_join_is_told():
    done = subprocess.run(
        [sys.executable, "-m", "sskd_jax.main", *SMALL, "--distributed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == distributed.FAULT
    assert (
        done.stderr.startswith("error: --distributed found no other processes")
        and done.stderr.count("\n") == 1
    )
