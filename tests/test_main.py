"""The command as it is typed: mistakes give one line on stderr and exit code 2."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def command(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "sskd_jax.main", *flags], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "flags,message",
    [
        ((), "give --config=configs/quickstart.py"),
        (("--config=configs/common.py",), "the config file has no function get_config"),
        (
            (
                "--config=configs/cifar.py:method=scratch,at+kd",
                "--config.settings.at+kd.weights.at=500",
            ),
            "in brackets: type \"--config.settings['at+kd'].weights.at=500\"",
        ),
        (("--config=configs/cifar.py:method=ssdk",), "unknown method 'ssdk': did you mean 'sskd'"),
        (
            ("--config=configs/quickstart.py", "--wrkdir=x"),
            "Unknown command line flag 'wrkdir'. Did you mean: workdir",
        ),
        (
            ("--config=configs/cifar.py", "--config.data.name=cifar101", "--workdir=/tmp/x"),
            "unknown dataset 'cifar101'",
        ),
    ],
)
def test_one_line_and_exit_code_2(flags, message):
    done = command(*flags)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not done.stdout
