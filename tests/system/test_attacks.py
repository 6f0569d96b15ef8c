"""Signals, terminals, machines and numbers that one rarely has in mind."""

import os
import pathlib
import pty
import signal
import stat
import subprocess
import sys
import tempfile
import time

import jax
import pytest

from sskd_jax import rules, settings
from sskd_jax.system import paths
from sskd_jax.system.interruption import Interruption
from sskd_jax.types import Stopped, UserError
from sskd_jax.workdir.environment import environment

ROOT = pathlib.Path(__file__).resolve().parents[2]
PRINT = "from sskd_jax.system.console import console; console.print({!r}); console.print('end')"


def call(code: str, stdout=subprocess.PIPE, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | variables,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def catches(process: subprocess.Popen, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("sskd_jax.main", signal.SIGTERM),
        ("sskd_jax.main", signal.SIGINT),
        ("sskd_jax.main", signal.SIGHUP),
        ("sskd_jax", signal.SIGTERM),
        ("experiments.record", signal.SIGTERM),
    ],
)
def test_a_signal_during_imports_says_that_the_same_command_goes_on(module, number, tmp_path):
    """An import that all these commands need waits for it."""
    (tmp_path / "numpy.py").write_text("import time; time.sleep(300)")
    command = [sys.executable, "-m", module, "--config=nowhere.py"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not catches(process, signal.SIGHUP):
            time.sleep(0.001)
        process.send_signal(number)
        complaint = process.communicate()[1]
    assert process.returncode == 75 and complaint.startswith(f"stopped: {number.name}: the same")
    assert complaint.count("\n") == 1


def test_a_lost_terminal_stops_a_run_like_sigterm():
    with Interruption() as interruption, interruption.deferred():
        os.kill(os.getpid(), signal.SIGHUP)
        assert interruption.due() and interruption.reason == "SIGHUP"


def test_what_is_printed_to_a_lost_terminal_keeps_nothing_from_being_saved(tmp_path):
    code = f"""
import fcntl, pathlib, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from sskd_jax.system.console import StageProgress, console
from sskd_jax.system.interruption import Interruption
with Interruption() as interruption, interruption.deferred():
    with StageProgress("teacher", 0, 9, 1) as progress:
        progress.advance(1)
        print("ready", flush=True)
        while not interruption.due():
            time.sleep(0.01)
        progress.advance(2)
        progress.print("a line")
    console.print("another line")
    print("the last one", file=sys.stderr, flush=True)
pathlib.Path({str(tmp_path / "saved")!r}).write_text(interruption.reason)
"""
    terminal, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = b""
        while b"ready" not in shown:
            shown += os.read(terminal, 1000)
        os.close(terminal)
    assert process.returncode == 0
    assert (tmp_path / "saved").read_text() == "SIGHUP"


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interruption.due()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_of_another_kind_does_not_wait():
    with pytest.raises(Stopped), Interruption() as interruption, interruption.deferred():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("opened", [os.pipe, os.openpty])
def test_a_reader_or_a_terminal_that_has_gone_ends_nothing(opened):
    reader, writer = opened()
    os.close(reader)
    ended = call(PRINT.format("a line"), stdout=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_named():
    code = (
        "from sskd_jax.types import UserError\n"
        "from sskd_jax.system.console import console, fail\n"
        "try: console.print('a line')\n"
        "except UserError as error: fail(str(error))"
    )
    with open("/dev/full", "w") as full:
        ended = call(code, stdout=full)
    line = b"error: cannot write to standard output (No space left on device): make room, or send"
    assert ended.returncode == 2 and ended.stderr.startswith(line)
    assert ended.stderr.count(b"\n") == 1


def test_a_terminal_without_a_letter_shows_it_by_its_number():
    ended = call(PRINT.format("h\u00fctte"), PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert (ended.returncode, ended.stdout) == (0, b"h\\xfctte\nend\n")


def test_markup_is_printed_as_it_is():
    text = "runs/[red]x[/] :smile: [/none]"
    ended = call(PRINT.format(text))
    assert (ended.returncode, ended.stdout.decode()) == (0, f"{text}\nend\n")


def test_a_name_that_is_no_utf8_is_told():
    with pytest.raises(UserError, match=r"the name .*h\\xfctte is not UTF-8: rename it"):
        paths.locate(os.fsdecode(b"/tmp/h\xfctte"))


@pytest.fixture
def homeless(tmp_path, monkeypatch) -> pathlib.Path:
    """A user without a home or an entry in /etc/passwd; returns the temporary folder."""

    def no_home(path: pathlib.Path) -> pathlib.Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "expanduser", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_caches_are_in_a_temporary_folder_of_the_users_own(homeless):
    folder = paths.cache_folder()
    assert folder == homeless / f"sskd_jax-{os.getuid()}" == paths.cache_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_temporary_folder_that_others_can_write_is_not_used(homeless):
    folder = homeless / f"sskd_jax-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    other = paths.cache_folder()
    assert other != folder and other.parent == homeless
    assert stat.S_IMODE(other.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["jax-9.9.dist-info", "stray.dist-info"])
def test_an_empty_folder_of_a_broken_installation_is_passed_over(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert environment(jax.devices(), {})["versions"]["jax"] == jax.__version__


def quickstart(changes: dict[str, object]):
    """The quickstart's config with changes."""
    from configs import quickstart as config

    made = config.get_config()
    with made.unlocked():
        made.update_from_flattened_dict(changes)
    return made


@pytest.mark.parametrize(
    ("key", "value", "advice"),
    [
        ("student.epochs", 2**31 - 1, "10000 at most"),
        ("student.epochs", 10**400, "10000 at most"),
        ("student.learning_rate", 1e300, "1e+12 at most"),
        ("student.learning_rate", 1e-300, "1e-12 at least"),
        ("settings.kd.weights.kd", 1e300, "1e+12 at most"),
        ("settings.kd.method.temperature", 1e-300, "1e-12 at least"),
        ("data.pad", 2**31 - 1, "256 at most"),
        ("data.mean", (1e300, 0.5, 0.5), "three numbers from 0 to 1"),
        ("data.mean", (-1e300, 0.5, 0.5), "three numbers from 0 to 1"),
        ("data.std", (1e-300, 0.5, 0.5), "1e-06 at least"),
        ("seed", 2**31, "2147483647 at most"),
    ],
)
def test_numbers_that_cannot_be_computed_with_are_found_before_training(key, value, advice):
    with pytest.raises(UserError) as error:
        settings.check(quickstart({key: value}))
    assert str(error.value) == f"{key} is {value!r}: give {advice}"


def test_a_rule_says_what_to_give():
    assert rules.whole(1, 9).advice(10) == "9 at most"
    assert rules.whole(1, 9).advice(0) == "a whole number from 1 on"
    assert rules.POSITIVE.advice(1e-9) == ""
