"""A small run, copies of this process in which it is started, and the check of its result."""

import hashlib
import importlib
import json
import os
import pathlib
import pickle
import runpy
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from sskd_jax.workdir.checkpoint import Checkpoints
from sskd_jax.workdir.files import METRICS, RESULTS, STAGE, Row, read_rows

SAVE_OFTEN = "--config.save_seconds=0"  # a checkpoint after every dispatch
IMPORTED_LATER = (
    "matplotlib.pyplot",
    "sklearn.datasets",
    "tensorboardX",
    "tensorflow_datasets",
    "sskd_jax.exchange.export",
    "sskd_jax.train",
)
LONGEST = 600  # seconds until a copy that hangs is ended

State = dict[str, Any]  # the content of a folder, by names that are shown if it differs


def small(methods: str, batch_size: int, share: float) -> tuple[str, ...]:
    """The flags of a small run on a share of the digits, with three epochs per stage."""
    settings = {
        "epochs": 3,
        "milestones": "(0.67,)",
        "batch_size": batch_size,
        "images.share": share,
    }
    return (
        "--config=configs/quickstart.py",
        "--config.seeds=1",
        f"--config.methods={methods}",
        "--config.teacher.model=resnet8",
        *(
            f"--config.{section}.{name}={value}"
            for section in ("teacher", "head", "student")
            for name, value in settings.items()
        ),
    )


TINY = small("('kd',)", batch_size=16, share=0.04)


class Outcome(NamedTuple):
    """The outcome of one attack.

    Attributes:
      attack: its kind.
      place: the file, the moment or the workdir that was attacked.
      verdict: one of `VERDICTS`.
      reason: of any verdict but "right".
    """

    attack: str
    place: str
    verdict: str
    reason: str = ""


# The same result; a loss that the run printed; a refusal in one line; anything else.
VERDICTS = ("right", "told", "refused", "mismatch")


class Ended(NamedTuple):
    """The end of a process.

    Attributes:
      code: its exit code, or minus the signal that killed it.
      printed: what it wrote to stdout and stderr.
      value: what its work returned, if anything.
    """

    code: int
    printed: str
    value: Any = None


def warm_up() -> None:
    """Imports the modules that runs import later, so that copies of this process have them.

    No module may start a thread or one of JAX's backends, which do not survive in a copy.
    """
    for module in IMPORTED_LATER:
        importlib.import_module(module)


def in_a_copy(work: Callable[[], Any]) -> Ended:
    """Calls `work` in a forked copy of this process, which saves the seconds of the imports."""
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as value:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        child = os.fork()
        if not child:
            become(work, printed.fileno(), value)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (printed, value):
            file.seek(0)
        text, content = printed.read().decode(errors="replace"), value.read()
    return Ended(code, text, pickle.loads(content) if content else None)


def become(work: Callable[[], Any], printed: int, value: Any) -> NoReturn:
    """Calls `work`, and ends this copied process with the exit code that Python would give.

    The interpreter's clean-up is left out, as it belongs to the original process.

    Args:
      work: its result is pickled into `value`.
      printed: the descriptor of a file, which takes stdout and stderr.
      value: a file.
    """
    code = 1
    signal.alarm(LONGEST)  # SIGALRM ends what hangs, which counts as a mismatch then
    try:
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        pickle.dump(work(), value)
        value.flush()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        threading._shutdown()  # waits for threads that still write
        os._exit(code)


def run_module(module: str, *arguments: str) -> None:
    """Runs `python -m module` in this process."""
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def train(flags: Sequence[str], workdir: pathlib.Path) -> None:
    run_module("sskd_jax.main", *flags, SAVE_OFTEN, f"--workdir={workdir}")


def stages(workdir: pathlib.Path) -> list[str]:
    """The names of the stages in a workdir that were begun."""
    return sorted(str(file.parent.relative_to(workdir)) for file in find(workdir, STAGE))


def find(folder: pathlib.Path, ending: str) -> set[pathlib.Path]:
    """Files and folders below `folder` whose names end with `ending`; they may vanish meanwhile."""
    return {
        pathlib.Path(place, name)
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if name.endswith(ending)
    }


def ending(workdir: pathlib.Path) -> State:
    """The part of a finished run's result that must not depend on whether it was interrupted."""
    rows = json.loads((workdir / RESULTS).read_text())
    best = [[row.pop(key) for key in list(row) if key.startswith("best_")] for row in rows]
    by_stage: dict[str, list[Row]] = {}
    for row in read_rows(workdir / METRICS) if (workdir / METRICS).exists() else []:
        by_stage.setdefault(row["stage"], []).append(row)
    state = {
        METRICS: by_stage,
        RESULTS: rows,
        f"{RESULTS}, best": best,
    }
    for stage in stages(workdir):
        with Checkpoints(workdir / stage) as checkpoints:
            state[f"{stage}, last"] = digest(checkpoints.newest())
            state[f"{stage}, best"] = digest(checkpoints.best())
    return state


def digest(tree: Any) -> str:
    """A hash over the paths, types, shapes and bits of the leaves of a tree."""
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def differences(found: State, expected: State) -> list[str]:
    """The names whose contents differ between two states."""
    names = dict.fromkeys([*expected, *found])
    return [name for name in names if found.get(name) != expected.get(name)]


def is_refusal(ended: Ended) -> bool:
    """Whether a process ended with exit code 2 and one error line, without a traceback."""
    errors = [line for line in ended.printed.splitlines() if line.startswith("error: ")]
    return ended.code == 2 and len(errors) == 1 and "Traceback" not in ended.printed


def judged(attack: str, place: str, ended: Ended, state: State, expected: State) -> Outcome:
    """The outcome of an attack, from the end of the last process and the state that it left."""
    if is_refusal(ended):
        return Outcome(attack, place, "refused", ended.printed.splitlines()[-1])
    if ended.code or "Traceback" in ended.printed:
        return Outcome(attack, place, "mismatch", f"code {ended.code}: {ended.printed[-3000:]}")
    if not (wrong := differences(state, expected)):
        return Outcome(attack, place, "right")
    is_told = all(
        name.endswith(", best")
        and "its best checkpoint is lost" in ended.printed
        or name == METRICS
        and f"{METRICS} lacks" in ended.printed
        for name in wrong
    )
    return Outcome(attack, place, "told" if is_told else "mismatch", ", ".join(wrong))
