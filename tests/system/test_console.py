"""What a person sees beside a stage: its pace and the time left; and what no output can hinder."""

import errno
import sys
from types import SimpleNamespace

import pytest

from sskd_jax.__main__ import main
from sskd_jax.commands import report
from sskd_jax.system import console
from sskd_jax.types import Stopped


@pytest.mark.parametrize("known", [True, False])
def test_what_a_bucket_refuses_is_one_line(known, monkeypatch, capsys):
    class OpError(Exception):
        """As TensorFlow's, which is no OSError."""

    def refused(argv):
        raise OpError("403 Forbidden\n when reading gs://mine/run")

    errors = {"errors": SimpleNamespace(OpError=OpError)} if known else {}
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(**errors))
    monkeypatch.setattr(report, "run", refused)
    if known:
        assert main(["report", "gs://mine/run"]) == 2
        assert capsys.readouterr().err == "error: 403 Forbidden when reading gs://mine/run\n"
    else:
        with pytest.raises(OpError):
            main(["report", "gs://mine/run"])


def test_a_terminal_that_was_closed_hides_no_stop(monkeypatch):
    def stop():
        raise OSError(errno.EIO, "Input/output error")

    gone = []
    monkeypatch.setattr(console.console, "on_broken_pipe", lambda: gone.append(True))
    progress = console.StageProgress("student", step=0, total=2, images_per_step=64)
    monkeypatch.setattr(progress.bar, "stop", stop)
    with pytest.raises(Stopped), progress:
        raise Stopped("by a signal")
    assert gone


def test_the_pace_forgets_an_old_pause(monkeypatch):
    """Ten steps of 64 images a second, an hour's pause, then ten a second again."""
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(console, "PACE_DISPATCHES", 5)
    progress = console.StageProgress("student", step=0, total=200, images_per_step=64)
    progress.advance(10)
    assert progress.pace() == "compiled"
    seen = []
    for second in range(1, 9):
        clock[0] += 1 + 3600 * (second == 3)
        progress.advance(10 + 10 * second)
        seen.append(progress.pace())
    assert seen[0] == "640 images/s  0:00:18 left"
    assert seen[2] == "1 images/s  5:20:16 left"  # 160 steps, at 30 in 3,603 seconds
    assert seen[7] == "640 images/s  0:00:11 left"
