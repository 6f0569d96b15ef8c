"""Several processes as one run: how they find each other, and how they end when one dies."""

import contextlib
import ctypes
import os
import signal
import traceback
from collections.abc import Iterator, Mapping
from typing import NoReturn

from sskd_jax.system.console import complain, mistakes
from sskd_jax.system.early import GO_ON
from sskd_jax.system.interruption import StoppedHere
from sskd_jax.types import Stopped, UserError

HOW = (
    "set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES=N and JAX_PROCESS_ID=0...N-1 for "
    "every process, or start it on a TPU pod, with Slurm's srun or on Kubernetes (with jax[k8s]), "
    "where nothing needs to be set"
)
LOST = (
    "stopped: another process of this run has ended or is out of reach: start all of them again "
    "with the same command, which goes on from the last checkpoint"
)
# How JAX's errors begin if they concern this process's program or device, not a lost connection.
OWN_FAULTS = (
    "INVALID_ARGUMENT",
    "UNIMPLEMENTED",
    "RESOURCE_EXHAUSTED",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
)
# Exit code after an error, EX_CONFIG: above that of the processes that it ends, as Slurm's srun
# returns the highest one, and they are to be started again only if none had an error.
FAULT = 78
MISSED_SECONDS = 30  # without a heartbeat, until a process counts as dead


def arguments(environment: Mapping[str, str]) -> dict[str, str | int | None]:
    """The arguments of `jax.distributed.initialize`, which finds those that are None on a cluster.

    Raises:
      UserError: a variable that should be a whole number is not one.
    """
    numbers = {}
    for key in ("num_processes", "process_id"):
        value = environment.get(f"JAX_{key.upper()}")
        if value is not None and not value.isdecimal():
            raise UserError(f"JAX_{key.upper()} is {value!r}, not a whole number: {HOW}")
        numbers[key] = value and int(value)
    return {"coordinator_address": environment.get("JAX_COORDINATOR_ADDRESS")} | numbers


@contextlib.contextmanager
def membership() -> Iterator[None]:
    """Joins the processes of the run: in this context, `jax.devices()` has those of all processes.

    An error ends this process immediately, which ends the others, too; otherwise they would wait
    for it until a time-out. `Stopped`, which all raise together, leaves time to finish writing.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # fatal errors are still logged
    import jax

    try:
        join()
        yield
    except mistakes() as error:
        end(f"error: {error}", FAULT)
    except StoppedHere as stop:
        end(f"stopped: {stop}", GO_ON)
    except Stopped:
        raise
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and may_be_lost(error):
            end(f"{LOST} ({str(error).splitlines()[0][:200]})", GO_ON)
        traceback.print_exc()
        os._exit(FAULT)


def may_be_lost(error: Exception) -> bool:
    """Whether an error from JAX may be caused by the end of another process."""
    import jax

    return jax.process_count() > 1 and not str(error).startswith(OWN_FAULTS)


def join() -> None:
    """Connects to the other processes; raises a `UserError` if they can't be found."""
    import jax

    # JAX would take SIGTERM for itself, as a notice that its programs may ask for.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **arguments(os.environ), heartbeat_timeout_seconds=MISSED_SECONDS
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"--distributed found no other processes ({error}): {HOW}") from error
    # When the coordinator is gone, JAX aborts in another thread, too fast for a Python signal
    # handler, which only runs in the main thread.
    ctypes.CDLL(None).signal(signal.SIGABRT, on_abort)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def on_abort(_: int) -> None:
    end(LOST, GO_ON)


def end(message: str, code: int) -> NoReturn:
    """Prints a line and ends the process immediately, without clean-up, which could block."""
    complain(" ".join(message.split()))
    os._exit(code)
